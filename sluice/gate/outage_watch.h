// OutageWatch: what one rollout's calls tell of whoever answers them, so that at its agent's end it
// can be said whether he could not. An agent can make calls fail, or leave them unanswered, by
// itself: so that alone shows nothing, and what is seen outside of its rollout must agree.
//
// Whoever asks says what the time is. On the rollout's shard, but for ServedLog. Internal to the
// gate.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "sluice/base/core/deadline.h"
#include "sluice/base/id.h"

namespace sluice::gate {

// Which rollouts were served last, by the URL that served them. Any thread.
class ServedLog {
 public:
  using Time = Clock::time_point;
  // URLs beyond this many: the one that served longest ago is forgotten.
  static constexpr size_t kMost = 1000;

  void served(const std::string& url, const RolloutId& rollout, Time now);
  // Whether another rollout was, since then.
  bool others_served(const std::string& url, const RolloutId& rollout, Time since) const;

  // What the gate asks a URL for itself tells of outages only if it is answered in good times.
  // True, and not again for a while: it should be asked, as the URL serves and has not answered
  // yet.
  bool should_ask(const std::string& url, Time now);
  void gate_answered(const std::string& url);
  // It has answered the gate before, or it never served anybody.
  bool silence_tells(const std::string& url) const;

 private:
  struct Served {
    RolloutId rollout;
    Time at;
  };
  struct Row {
    Served last;
    std::optional<Served> other;  // the last to another than that
    std::optional<Time> asked;    // by the gate
    bool answered = false;
  };
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Row> rows_;
};

// Why calls had no answer when the agent ended, and since when they had none.
struct Outage {
  enum class Kind : uint8_t { kUpstream, kNoTrainer, kRejected };
  Kind kind = Kind::kUpstream;
  Clock::time_point since;
  std::string why;  // the first rejection; the upstream's last failure, "" if it said nothing
};

class OutageWatch {
 public:
  using Time = Clock::time_point;

  // A call, by its ordinal, waits for an answer from here on. What follows is of such calls; others
  // are passed over.
  void asked(uint64_t call, Time now);
  // It has its answer, or a refusal by who answers: what was amiss before is over.
  void answered(uint64_t call);
  // The upstream could not.
  void failed(uint64_t call, Time now, std::string_view why);
  // A reply did not fit; the call waits for another.
  void rejected(uint64_t call, Time now, std::string_view why);
  // It ended otherwise, without a whole answer.
  void left(uint64_t call);

  // The agent has ended: nothing that is told later counts. Idempotent.
  void ended(Time now);

  // What would have to be true outside as well. REQUIRES: ended().

  // The upstream, if this rollout's last calls failed there.
  std::optional<Outage> upstream() const;
  // The trainer, last heard of at `heard`: nothing of him, or nothing that fits, for `lease`.
  std::optional<Outage> trainer(Time heard, Duration lease) const;
  // How long a call had waited for the trainer, in vain.
  Duration waited() const;

 private:
  struct Rejected {
    Time since;
    std::string why;
  };
  struct Waiting {
    Time since;
    std::unique_ptr<Rejected> rejected;
  };
  void leave(const std::map<uint64_t, Waiting>::iterator& at);

  std::map<uint64_t, Waiting> waiting_;
  std::optional<Waiting> unanswered_;  // all that left so since the last answer, as one
  std::optional<Outage> failing_;      // since the last answer
  std::optional<Time> ended_;
};

// An outage for people: what it was, from when on, and what to do. `now` and `wall` are one moment;
// `probe` is what the gate's own request to the upstream came to.
std::string describe(const Outage& outage, const std::string& url, const std::string& probe,
                     Clock::time_point now, std::chrono::system_clock::time_point wall);
// What an upstream did to a rollout, and what shows that it is no outage.
std::string describe_doubt(const Outage& outage, const std::string& url, std::string_view shown);

}  // namespace sluice::gate
