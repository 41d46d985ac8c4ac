// A gate on a TCP port, for tests that talk to it with real clients. A stand-in for a trainer on a
// thread of its own answers by the words in the last message:
//
//   "tools"     one tool call        "parallel"  two tool calls      "n"   as many choices as asked
//   "malformed" arguments that are no JSON                            "reason" reasoning content
//   "refuse"    an error that ends the agent                          "busy" one to come back after
//   "slow"      answers after a second                                "never" does not answer
//   otherwise   "You said: ..." with usage
//
// Prints {"port": N} and serves until its standard input ends; then prints the rollout's counters
// as one JSON line. Its trace is in the directory given as the only argument.
#include <unistd.h>

#include <cstdio>
#include <thread>

#include <boost/json/object.hpp>

#include "sluice/gate/gate.h"
#include "sluice/json/value.h"
#include "sluice/llm/answer.h"
#include "sluice/net/socket.h"
#include "sluice/trace/jsonl.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

const RolloutId kRollout{"r0"};

std::string last_text(const llm::Call& call) {
  const auto request = call.request();
  return request && !(*request)->messages.empty() ? (*request)->messages.back().text : "";
}

llm::Answer answer_to(const llm::Call& call, const std::string& text) {
  llm::Answer answer = llm::text_answer("You said: " + text, llm::Origin::kSampled);
  answer.usage = llm::Usage{10, 5};
  llm::Message& message = answer.choices[0].message;
  const auto says = [&](const char* word) {
    return text.find(word) != std::string::npos;
  };
  if (says("tools") || says("parallel") || says("malformed")) {
    message.text = "";
    message.tool_calls.push_back({"call_1", "get_weather", R"({"city":"Paris"})"});
  }
  if (says("parallel")) {
    message.tool_calls.push_back({"call_2", "get_weather", R"({"city":"Rome"})"});
  }
  if (says("malformed")) message.tool_calls[0].arguments = "{\"city\": ";
  if (says("reason")) message.reasoning = "Let me think.";
  for (uint32_t i = 1; i < call.n; ++i) {
    answer.choices.push_back(answer.choices[0]);
    answer.choices.back().message.text += " (" + std::to_string(i) + ")";
  }
  return answer;
}

// Until the rollout is closed.
void train(gate::Trainer trainer) {
  for (;;) {
    for (const gate::Item& item : trainer.next_batch(16, 1h)) {
      if (item.ended() != nullptr) return;
      const llm::Call* call = item.call();
      const std::string text = last_text(*call);
      if (text.find("never") != std::string::npos) continue;
      if (text.find("slow") != std::string::npos) std::this_thread::sleep_for(1s);
      if (text.find("refuse") != std::string::npos) {
        trainer.reply(call->id, llm::Refusal{ErrorCode::kCancelled, "not this one", true});
      } else if (text.find("busy") != std::string::npos) {
        trainer.reply(call->id, llm::Refusal{ErrorCode::kUnavailable, "come back later", false});
      } else {
        trainer.reply(call->id, answer_to(*call, text));
      }
    }
  }
}

net::awaitable<void> close_and_stop(gate::Operator* gate, bool* closed) {
  co_await gate->close(kRollout);
  *closed = true;
}

void print_counters(const gate::Counters& counters) {
  json::Object out;
  out["calls"] = counters.calls;
  out["resends"] = counters.resends;
  out["turns"] = counters.turns;
  out["refused"] = counters.refused;
  out["open"] = counters.open;
  std::printf("%s\n", json::serialize(json::Value(std::move(out))).c_str());
}

int serve(const std::string& directory) {
  net::Shard shard;
  trace::JsonlRecorder recorder(directory, Logger::to_fd(2, LogLevel::kWarn));
  gate::GateOptions options;
  options.keep_alive = 100ms;
  options.log = Logger::to_fd(2, LogLevel::kWarn);
  gate::Handles gate = gate::make_gate(options);
  gate::Registration registration;
  registration.origins.tokens = gate::OriginRule::Tokens::kWaived;
  registration.id = kRollout;
  registration.shard = &shard;
  registration.recorder = &recorder;
  registration.resend.grace = 5s;
  recorder.opened(kRollout, {"sdk", "sdk", "", "interception_gate", "trainer"});
  const auto opened = gate.for_operator.open(registration);
  auto listener = net::listen_tcp(shard, "127.0.0.1", 0);
  if (!opened || !listener) {
    std::fprintf(stderr, "cannot serve\n");
    return 1;
  }
  const std::string address = (*listener)->address();
  if (!gate.for_operator.serve(kRollout, std::move(*listener))) return 1;
  gate.for_operator.admit(kRollout);
  std::printf("{\"port\": %s}\n", address.substr(address.rfind(':') + 1).c_str());
  std::fflush(stdout);

  std::thread trainer([&] { train(gate.for_trainer); });
  std::thread input([&] {
    char ignored[64];
    while (::read(0, ignored, sizeof ignored) > 0) {
    }
    shard.post([&] { gate.for_operator.stop_admitting(kRollout); });
  });
  bool closing = false, closed = false;
  std::thread waiter([&] {
    input.join();
    shard.post([&] { closing = true; });
  });
  shard.run_until([&] { return closing; });
  // A client has its answer a little before its kernel says so.
  bool late = false;
  net::Wheel::Timer timer(shard.wheel());
  timer.arm(Deadline::in(3s), [&] { late = true; });
  shard.run_until([&] { return late || gate.for_operator.counters(kRollout)->open == 0; });
  timer.disarm();
  print_counters(*gate.for_operator.counters(kRollout));
  shard.spawn(close_and_stop(&gate.for_operator, &closed));
  shard.run_until([&] { return closed; });
  recorder.closed(kRollout, {});
  waiter.join();
  trainer.join();
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: gate_test_server TRACE_DIRECTORY\n");
    return 2;
  }
  return sluice::serve(argv[1]);
}
