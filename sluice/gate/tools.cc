#include "sluice/gate/tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "sluice/json/schema.h"
#include "sluice/json/value.h"
#include "sluice/net/http.h"

namespace sluice::gate {
namespace {

constexpr size_t kMaxName = 64;

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
         });
}

// The environment's own verbs: a tool by such a name would look like control over the episode.
bool is_reserved(std::string_view name) {
  constexpr std::array<std::string_view, 4> kReserved{"reset", "step", "state", "close"};
  return std::any_of(kReserved.begin(), kReserved.end(), [&](std::string_view reserved) {
    return net::equal_ignoring_case(name, reserved);
  });
}

Error wrong(const Tool& tool, std::string_view what) {
  return Error(ErrorCode::kInvalidArgument, fmt::format("tool \"{}\": {}", tool.name, what),
               ErrorOrigin::kCaller);
}

}  // namespace

Result<void> check_tool(const Tool& tool) {
  if (!is_name(tool.name)) return wrong(tool, "a name is 1 to 64 of letters, digits, '_' and '-'");
  if (is_reserved(tool.name)) return wrong(tool, "this name is the environment's own");
  auto schema = json::Schema::parse(tool.parameters);
  if (!schema) return std::move(schema).error().within("tool \"" + tool.name + "\"");
  const json::Object* object = schema->value().if_object();
  if (object == nullptr || json::get_string(*object, "type") != "object") {
    return wrong(tool, "its parameters must be a schema of type \"object\"");
  }
  if (tool.timeout <= Duration::zero()) return wrong(tool, "its timeout must be more than nothing");
  return {};
}

}  // namespace sluice::gate
