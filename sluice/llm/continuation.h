// Continuation: how a request goes on from an earlier call: whether that call's messages stand in
// it as they were, and its answer as it was sent. Agents serialise arguments again, mend them, drop
// or sum up what was said; what was sampled is then not what later calls say it was. One function
// tells it, for trainers and for whoever cuts samples.
//
// Plain functions and values; any thread.
#pragma once

#include <mutex>
#include <optional>
#include <string_view>

#include "sluice/llm/dialect.h"

namespace sluice::llm {

struct Continuation {
  enum class How : uint8_t {
    kExact,      // all stands there as it was
    kRepaired,   // the messages do, and the answer with other bytes: arguments serialised again,
                 // names or white space changed
    kRewritten,  // a message is another one, or the answer's place has something else
  };
  How how = How::kExact;
  // kRewritten: the first that is another, of the later request's messages in canonical form.
  size_t from = 0;
  auto operator<=>(const Continuation&) const = default;
};
std::string_view to_string(Continuation::How how);

// How `later` goes on from `earlier`, whose agent got `answer`; if that is none, nothing is said
// about it, nor where `later` ends before it. Reasoning does not count, which many agents drop.
Continuation continuation(const Codec& codec, const Request& earlier, const Answer* answer,
                          const Request& later);
// The same of bodies as their agent sent them, which are read for it. kIo, kInvalidArgument if one
// cannot be.
Result<Continuation> continuation(Dialect dialect, const Body& earlier, const Answer* answer,
                                  const Body& later);

// Of a call: the earlier one whose answer its history holds latest, and how it goes on from there,
// if that was told by its arrival or has been found out since. Any thread.
class Parent {
 public:
  Parent(CallId id, const Continuation& how) : id_(std::move(id)), how_(how) {}
  // It is to be found out; from no body it cannot be.
  Parent(CallId id, std::optional<Body> body, std::shared_ptr<const Answer> answer)
      : id_(std::move(id)), body_(std::move(body)), answer_(std::move(answer)) {}

  const CallId& id() const { return id_; }
  // Nothing if that is not known, or cannot be.
  std::optional<Continuation> how() const;
  // Whether find_out() would read bodies.
  bool is_open() const;
  // The same as how(), of `child`, after reading what is to be read for it: waits for the disk.
  std::optional<Continuation> find_out(const Call& child) const;

 private:
  const CallId id_;
  mutable std::mutex mutex_;
  mutable std::optional<Continuation> how_;
  mutable std::optional<Body> body_;  // until it was found out
  mutable std::shared_ptr<const Answer> answer_;
};

}  // namespace sluice::llm
