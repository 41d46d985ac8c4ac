#include "sluice/trace/prompts.h"

#include <algorithm>
#include <span>
#include <utility>

#include "sluice/base/digest.h"

namespace sluice::trace {
namespace {

using Ids = std::span<const int32_t>;

// A run of ids, as far as it takes to know it again.
struct Run {
  explicit Run(Ids ids)
      : size(ids.size()), last(ids.empty() ? 0 : ids.back()), digest(digest_of(ids)) {}

  static Digest digest_of(Ids ids) {
    return xxh3_128({reinterpret_cast<const char*>(ids.data()), ids.size_bytes()});
  }
  // Of as many ids. Most others end otherwise.
  bool is(Ids ids) const { return size == 0 || (ids.back() == last && digest_of(ids) == digest); }

  size_t size;
  int32_t last;
  Digest digest;
};

}  // namespace

struct Prompts::Turn {
  Turn(CallId id, Ids prompt_ids, Ids completion_ids)
      : call(std::move(id)), prompt(prompt_ids), completion(completion_ids) {}

  size_t size() const { return prompt.size + completion.size; }
  bool begins(Ids ids) const {
    return size() <= ids.size() && completion.is(ids.subspan(prompt.size, completion.size)) &&
           prompt.is(ids.first(prompt.size));
  }

  CallId call;
  Run prompt, completion;
};

std::optional<Prompts::Beginning> Prompts::beginning_of(const TurnIds& turn) const {
  const auto found = std::find_if(turns_.rbegin(), turns_.rend(),
                                  [&](const auto& one) { return one->begins(turn.prompt); });
  if (found == turns_.rend()) return std::nullopt;
  return Beginning{(*found)->call, (*found)->size()};
}

void Prompts::kept(const TurnIds& turn, const std::optional<Beginning>& beginning) {
  if (!turn.completion) return;
  if (beginning) {
    std::erase_if(turns_, [&](const auto& one) { return one->call == beginning->call; });
  }
  turns_.push_back(std::make_shared<const Turn>(turn.call, turn.prompt, *turn.completion));
  if (turns_.size() > kMost) turns_.erase(turns_.begin());
}

}  // namespace sluice::trace
