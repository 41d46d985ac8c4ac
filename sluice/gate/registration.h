// Registration: how one rollout is opened at the gate: who answers its calls, how much its agent
// may ask, how its requests are told apart, and which answers are taken.
//
// Plain values; any thread.
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "sluice/gate/books.h"
#include "sluice/gate/tools.h"
#include "sluice/llm/call.h"

namespace sluice::net {
class Shard;
}
namespace sluice::trace {
struct DiskUse;
class Recorder;
}  // namespace sluice::trace

namespace sluice::gate {

class Policy;

// Limits of one rollout; 0 is no limit. What is over one of them is refused with the status that
// ends the agent.
struct Budget {
  uint64_t calls = 500;          // admitted in all
  uint32_t open_calls = 16;      // at once
  double calls_per_second = 20;  // sustained, with a burst of one second's worth
  uint64_t tokens = 0;           // of delivered answers, prompts included, as far as usage tells
  uint64_t bytes = 0;            // of requests and answers
  Duration time{};               // from admit() on; what is open then is refused too
  // Written to this machine's disk: requests (what is new of them), events, and what programs
  // print, where that is kept.
  uint64_t host_disk = uint64_t{2} << 30;
};

// How a request is recognised as a resend of an earlier one.
struct ResendRules {
  // An equal request this long after a delivery is taken for a resend; 0 turns that off.
  Duration window = std::chrono::seconds(60);
  // How long a call whose agent hung up stays open, and answerable, for the agent to come back for
  // it (agents do in 0.2 to 40 s); 0 ends it at once. An answer is kept beyond that.
  Duration grace = std::chrono::seconds(60);
  // Top-level fields of the body that differ between resends and are left out of the digest.
  std::vector<std::string> ignore_fields;
};

// Headers by which an agent names its session and a sub-agent's parent session; "" if it has none.
struct SessionHeaders {
  std::string session;
  std::string parent;
};

// Which calls are not the main trajectory; the first rule that matches decides. Where none does, a
// call without tools of an agent that has offered some is a summary.
struct PurposeRule {
  llm::Purpose purpose = llm::Purpose::kMain;
  std::optional<bool> has_tools = {};
  std::optional<bool> has_parent_session = {};
  std::string system_contains = {};
  // If set, the gate answers such calls itself with this text (Origin::kCanned).
  std::optional<std::string> canned = {};
};

// Which answers are taken. Only what was sampled is ever trainable, so what is said to be sampled
// has to come with its token ids and logprobs.
struct OriginRule {
  enum class Tokens : uint8_t { kRequired, kWaived };
  enum class Accept : uint8_t { kAny, kSampledOnly };
  Tokens tokens = Tokens::kRequired;
  Accept accept = Accept::kAny;
};

// When an agent that asked for a stream gets what an answer says. Tool calls, the finish reason and
// the usage always come with the end.
enum class AnswerDelivery : uint8_t {
  kWhole,  // at once, when it is complete: a stream that breaks then leaves nothing half-said
  // Its reasoning and text as they are made. Agents keep what they got of an answer that was never
  // completed, and some say it in later requests.
  kIncremental,
};

// Whether an agent gets a tool call that was cut in the middle, at the end of an answer
// (cut_call.h).
enum class CutCalls : uint8_t { kWithheld, kSent };

// Whether a rollout's tools are also put into the requests of its agent, as whoever answers sees
// them, where an agent does not offer them itself.
enum class ToolsInRequests : uint8_t { kAsSent, kAdded };

struct Registration {
  RolloutId id;
  net::Shard* shard = nullptr;  // the rollout lives there
  std::set<llm::Dialect> dialects{llm::Dialect::kChat};
  Budget budget;
  ResendRules resend;
  SessionHeaders session_headers;
  std::vector<PurposeRule> purposes;
  // What requests on its own listeners have to show, for those that others reach, too; "": nothing.
  std::string key;
  std::vector<std::string> models{"policy"};  // what the agent sees in a list of models
  std::shared_ptr<Policy> policy;             // none: calls park for the trainer
  OriginRule origins;
  AnswerDelivery delivery = AnswerDelivery::kWhole;
  CutCalls cut_calls = CutCalls::kWithheld;
  std::vector<Tool> tools;
  ToolsInRequests tools_in_requests = ToolsInRequests::kAsSent;
  // Trainer's rollouts: cancelled when so many versions have come since its first answer.
  std::optional<uint64_t> max_version_lag;
  About about;                          // its task is handed to trainers with each of its calls
  trace::Recorder* recorder = nullptr;  // none: nothing is recorded
  // What is used of Budget::host_disk; none: that is no limit.
  std::shared_ptr<const trace::DiskUse> disk;
};

}  // namespace sluice::gate
