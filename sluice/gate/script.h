// Script: rules over a conversation, from a small TOML file (docs/script-policy.md): which answer
// an agent gets when. Judging a request is a function of the request alone, so a resend, or another
// session of the agent, gets what its own conversation calls for.
//
// Immutable once parsed; any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/llm/call.h"

namespace sluice::gate {

class Script {
 public:
  // Errors name file, line and what to do.
  static Result<Script> parse(std::string_view text, std::string source);
  static Result<Script> load(const std::string& path);

  struct Verdict {
    std::variant<llm::Answer, llm::Refusal> reply;
    Duration delay{};
  };
  // What the first rule that matches says; a refusal that names the turn if none does.
  Verdict judge(const llm::Call& call) const;

 private:
  struct Rule;
  struct Rules;
  explicit Script(std::shared_ptr<const Rules> rules) : rules_(std::move(rules)) {}
  std::shared_ptr<const Rules> rules_;
};

}  // namespace sluice::gate
