// The gate with its shard on one thread, trainers on others and agents over TCP: what must hold
// whichever of them is first. Run under TSan.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include "sluice/gate/testing.h"
#include "sluice/net/socket.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/memory.h"
#include "sluice/trace/reader.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using llm::Outcome;

// Longer than any test runs: whatever returns before was woken by what it waited for, not by time.
constexpr auto kForever = 1h;

class ThreadsTest : public ::testing::Test {
 protected:
  ThreadsTest() : gate_(make_gate(options())) { shard_.start(); }

  static GateOptions options() {
    GateOptions options;
    options.keep_alive = kForever;
    return options;
  }

  // Runs `work` on the shard's thread and waits for it.
  void on_shard(const std::function<void()>& work) {
    std::promise<void> done;
    shard_.post([&] {
      work();
      done.set_value();
    });
    done.get_future().get();
  }

  static net::awaitable<void> close_and_tell(Operator* gate, RolloutId id,
                                             std::promise<void>* done) {
    co_await gate->close(std::move(id));
    done->set_value();
  }
  void close(const RolloutId& id) {
    std::promise<void> done;
    shard_.spawn(close_and_tell(&gate_.for_operator, id, &done));
    done.get_future().get();
  }

  // Opens a rollout and serves it in memory.
  net::MemoryListener* open(const RolloutId& id, Registration registration = {}) {
    net::MemoryListener* out = nullptr;
    on_shard([&] {
      registration.id = id;
      registration.shard = &shard_;
      if (registration.recorder == nullptr) registration.recorder = &recorder_;
      registration.budget = {1'000'000, 1'000'000, 1e9};
      registration.origins.tokens = OriginRule::Tokens::kWaived;
      ASSERT_TRUE(gate_.for_operator.open(registration));
      auto listener = std::make_unique<net::MemoryListener>(shard_);
      out = listener.get();
      ASSERT_TRUE(gate_.for_operator.serve(id, std::move(listener)));
      gate_.for_operator.admit(id);
    });
    return out;
  }
  Counters counters(const RolloutId& id) {
    Counters out;
    on_shard([&] { out = *gate_.for_operator.counters(id); });
    return out;
  }

  net::Shard shard_;
  trace::MemoryRecorder recorder_;
  Handles gate_;
};

std::string request_text(std::string_view body) {
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

// How one request of an agent goes.
enum class Fate {
  kServed,          // reads its answer
  kCutWhileParked,  // resets before the answer, and comes back
  kCutAfterAnswer,  // never acknowledges the answer, resets, and comes back
  kFinWhileParked,  // ends its side before the answer, and comes back
  kGone,            // resets and does not come back
  kTwice,           // asks on two connections at once
};
constexpr int kFates = 6;

// An agent on the shard: one coroutine that makes `calls` requests, each with a fate.
class FaultyAgent {
 public:
  FaultyAgent(net::MemoryListener* listener, int number, int calls)
      : listener_(listener),
        number_(number),
        calls_(calls),
        random_(static_cast<unsigned>(number)) {}

  net::awaitable<void> run() {
    for (int i = 0; i < calls_; ++i) {
      const auto fate = static_cast<Fate>(random_() % kFates);
      const std::string body = R"({"model":"m","messages":[{"role":"user","content":")" +
                               std::to_string(number_) + "." + std::to_string(i) +
                               (i % 2 == 0 ? R"("}],"stream":true})" : R"("}]})");
      ++fates[static_cast<size_t>(fate)];
      co_await ask(body, fate);
    }
    done = true;
  }

  std::array<int, kFates> fates{};
  int answers = 0;  // read to their end
  std::atomic<bool> done = false;

 private:
  net::awaitable<void> ask(std::string body, Fate fate) {
    auto stream = listener_->connect();
    co_await send(stream.get(), body);
    switch (fate) {
      case Fate::kServed:
        co_await read_answer(stream.get());
        co_return;
      case Fate::kTwice: {
        auto second = listener_->connect();
        co_await send(second.get(), body);
        co_await read_answer(stream.get());
        co_await read_answer(second.get());
        --answers;
        co_return;
      }
      case Fate::kCutAfterAnswer: {
        stream->set_acknowledge(net::MemoryStream::Acknowledge::kByHand);
        // The answer may or may not be there: both are cut.
        const auto slept = co_await net::sleep_for(pause());
        if (slept) stream->reset();
        break;
      }
      case Fate::kFinWhileParked: {
        stream->finish();
        const auto slept = co_await net::sleep_for(pause());
        if (slept) stream->close();
        break;
      }
      case Fate::kCutWhileParked:
      case Fate::kGone:
        stream->reset();
        break;
    }
    if (fate == Fate::kGone) co_return;
    auto again = listener_->connect();
    co_await send(again.get(), std::move(body));
    co_await read_answer(again.get());
  }

  static net::awaitable<void> send(net::MemoryStream* stream, std::string body) {
    const std::string text = request_text(body);
    const auto written = co_await stream->write_all(as_byte_span(text));
    EXPECT_TRUE(written);
  }

  net::awaitable<void> read_answer(net::MemoryStream* stream) {
    std::string seen;
    std::string buffer(4096, '\0');
    while (seen.find("data: [DONE]\n\n") == std::string::npos &&
           seen.find("\"finish_reason\":\"stop\"}]}") == std::string::npos) {
      const auto n = co_await stream->read_some(as_writable_byte_span(buffer));
      if (!n || *n == 0) {
        ADD_FAILURE() << "no whole answer: " << seen;
        co_return;
      }
      seen.append(buffer, 0, *n);
    }
    EXPECT_NE(seen.find("answer"), std::string::npos) << seen;
    ++answers;
  }

  Duration pause() { return std::chrono::microseconds(random_() % 3000); }

  net::MemoryListener* listener_;
  int number_, calls_;
  std::mt19937 random_;
};

// Answers everything until it has seen the end of `rollouts` rollouts. Now and then it dies with
// what it has taken and starts again, or pauses the gate and resumes under new weights.
class FaultyTrainer {
 public:
  FaultyTrainer(Trainer trainer, int rollouts)
      : trainer_(std::move(trainer)), rollouts_(rollouts) {}

  void run() {
    std::vector<std::future<Result<Outcome>>> waiting;
    std::mt19937 random(7);
    TakeRequest request;
    request.max = 4;  // many takes, so that every fault comes
    request.taker = {"trainer", kForever, Taker::Start::kContinue};
    while (rollouts_ > 0) {
      const auto items = trainer_.take(request, kForever);
      ASSERT_TRUE(items);
      const auto dice = random() % 16;
      if (dice == 0) {
        ++deaths;
        request.taker.start = Taker::Start::kAfresh;
        continue;
      }
      request.taker.start = Taker::Start::kContinue;
      if (dice == 1) trainer_.pause();
      for (const Item& item : *items) {
        if (item.ended() != nullptr) {
          --rollouts_;
          continue;
        }
        ++taken;
        const llm::Call* call = item.call();
        waiting.push_back(trainer_.reply(
            call->id, llm::text_answer("answer to " + call->request().value()->messages[0].text,
                                       llm::Origin::kSampled)));
      }
      if (dice == 1) trainer_.resume("step-" + std::to_string(++versions));
    }
    for (auto& future : waiting) {
      const auto outcome = future.get();
      if (outcome) {
        ++outcomes[static_cast<size_t>(*outcome)];
      } else {
        // It ended before it was answered.
        EXPECT_EQ(outcome.error().code, ErrorCode::kFailedPrecondition);
        ++too_late;
      }
    }
  }

  int taken = 0;
  int too_late = 0;
  int deaths = 0, versions = 0;
  std::array<int, 6> outcomes{};

 private:
  Trainer trainer_;
  int rollouts_;
};

TEST_F(ThreadsTest, EveryCallHasOneOutcomeWhateverBreaksWhen) {
  constexpr int kRollouts = 3, kAgents = 8;
  // 1,000 requests; 20,000 in the slow runs.
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing in this process changes the environment.
  const int calls_each = std::getenv("SLUICE_SLOW") != nullptr ? 840 : 42;
  Registration registration;
  registration.resend.grace = 50ms;
  std::vector<std::unique_ptr<FaultyAgent>> agents;
  for (int r = 0; r < kRollouts; ++r) {
    net::MemoryListener* listener = open({"r" + std::to_string(r)}, registration);
    for (int a = 0; a < kAgents; ++a) {
      agents.push_back(
          std::make_unique<FaultyAgent>(listener, static_cast<int>(agents.size()), calls_each));
    }
  }
  FaultyTrainer trainer(gate_.for_trainer, kRollouts);
  std::thread thread([&] { trainer.run(); });
  for (auto& agent : agents) shard_.spawn(agent->run());
  for (auto& agent : agents) {
    while (!agent->done) std::this_thread::sleep_for(1ms);
  }

  int gone = 0, answered = 0;
  for (const auto& agent : agents) {
    gone += agent->fates[static_cast<size_t>(Fate::kGone)];
    answered += agent->answers;
  }
  Counters sum;
  for (int r = 0; r < kRollouts; ++r) {
    const RolloutId id{"r" + std::to_string(r)};
    // The last ones that went away for good.
    while (counters(id).open > 0) std::this_thread::sleep_for(5ms);
    const Counters counted = counters(id);
    uint64_t ended = 0;
    for (size_t i = 0; i < 6; ++i) {
      sum.outcomes[i] += counted.outcomes[i];
      ended += counted.outcomes[i];
    }
    EXPECT_EQ(counted.calls, ended);
    sum.calls += counted.calls;
    close(id);
  }
  thread.join();

  const int requests = kRollouts * kAgents * calls_each;
  EXPECT_GT(trainer.deaths, 0);
  EXPECT_GT(trainer.versions, 0);
  EXPECT_EQ(answered, requests - gone);
  // A request is one call, however often it was sent; one that was cut before the gate had read it
  // was none.
  EXPECT_LE(sum.calls, static_cast<uint64_t>(requests));
  EXPECT_GE(sum.calls, static_cast<uint64_t>(requests - gone));
  EXPECT_EQ(sum.ended(Outcome::kDelivered) + sum.ended(Outcome::kUndelivered), sum.calls);
  EXPECT_GE(sum.ended(Outcome::kDelivered) + recorder_.count("event:received_late"),
            static_cast<uint64_t>(answered));
  // The trace and the trainer tell the same.
  EXPECT_EQ(recorder_.count("arrived"), sum.calls);
  EXPECT_EQ(recorder_.count("ended"), sum.calls);
  EXPECT_EQ(recorder_.count(Outcome::kDelivered), sum.ended(Outcome::kDelivered));
  EXPECT_LE(recorder_.count("answered"), sum.calls);
  EXPECT_EQ(trainer.outcomes[0], static_cast<int>(sum.ended(Outcome::kDelivered)));
  EXPECT_EQ(static_cast<size_t>(trainer.taken - trainer.too_late), recorder_.count("answered"));
}

net::awaitable<void> park(net::MemoryListener* listener, std::promise<std::string>* got) {
  auto stream = listener->connect();
  const std::string text = request_text(R"({"model":"m","messages":[{"role":"user"}]})");
  const auto written = co_await stream->write_all(as_byte_span(text));
  EXPECT_TRUE(written);
  std::string buffer(4096, '\0');
  const auto n = co_await stream->read_some(as_writable_byte_span(buffer));
  got->set_value(n ? buffer.substr(0, *n) : "broken");
}

// In the original a close from another thread than the server's left a plain call blocked for good
// and a streamed one until its next keep-alive. Here every wait is an hour long.
TEST_F(ThreadsTest, finding_05_closing_wakes_agents_and_trainers_on_every_thread) {
  net::MemoryListener* listener = open({"r0"});
  std::promise<std::string> agent;
  shard_.spawn(park(listener, &agent));
  const auto item = gate_.for_trainer.next({"r0"}, kForever);
  ASSERT_TRUE(item && *item);
  std::thread one([&] {
    const auto last = gate_.for_trainer.next({"r0"}, kForever);
    EXPECT_NE((*last)->ended(), nullptr);
  });
  close({"r0"});
  one.join();
  EXPECT_NE(agent.get_future().get().find("400"), std::string::npos);

  listener = open({"r1"});
  std::promise<std::string> second;
  std::thread any([&] {
    // The call, if it is taken before the end takes it back; then the end.
    for (bool ended = false; !ended;) {
      for (const Item& item : gate_.for_trainer.next_batch(2, kForever)) {
        ended = item.ended() != nullptr;
      }
    }
  });
  shard_.spawn(park(listener, &second));
  while (counters({"r1"}).open == 0) std::this_thread::yield();
  close({"r1"});
  any.join();
  EXPECT_NE(second.get_future().get().find("400"), std::string::npos);
}

// How long it takes is told in the test's properties; that nothing else wakes the call is checked.
TEST_F(ThreadsTest, ACancelFromAnotherThreadWakesAParkedCall) {
  double longest_ms = 0;
  for (int i = 0; i < 20; ++i) {
    const RolloutId id{"r" + std::to_string(i)};
    net::MemoryListener* listener = open(id);
    std::promise<std::string> agent;
    shard_.spawn(park(listener, &agent));
    const auto item = gate_.for_trainer.next(id, kForever);
    ASSERT_TRUE(item && *item);
    const auto began = Clock::now();
    gate_.for_trainer.cancel(id, "stale");
    EXPECT_NE(agent.get_future().get().find("400"), std::string::npos);
    const std::chrono::duration<double, std::milli> took = Clock::now() - began;
    longest_ms = std::max(longest_ms, took.count());
    close(id);
  }
  RecordProperty("longest_wake_ms", std::to_string(longest_ms));
}

TEST_F(ThreadsTest, finding_02_rollouts_open_and_close_while_others_run) {
  constexpr int kThreads = 4, kRounds = 25;
  std::atomic<bool> stop = false;
  std::thread trainer([&] {
    while (!stop) {
      for (const Item& item : gate_.for_trainer.next_batch(8, 1ms)) {
        if (const llm::Call* call = item.call()) {
          gate_.for_trainer.reply(call->id, llm::text_answer("x", llm::Origin::kSampled));
        }
      }
    }
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < kRounds; ++i) {
        const RolloutId id{"r" + std::to_string(t) + "-" + std::to_string(i)};
        net::MemoryListener* listener = open(id);
        std::promise<std::string> got;
        shard_.spawn(park(listener, &got));
        if (i % 2 == 0) EXPECT_NE(got.get_future().get().find("200 OK"), std::string::npos);
        close(id);
        if (i % 2 == 1) got.get_future().get();  // an answer or an error, but not nothing
      }
    });
  }
  for (auto& thread : threads) thread.join();
  stop = true;
  trainer.join();
  EXPECT_EQ(recorder_.count("ended"), recorder_.count("arrived"));
}

// Over a real socket, into a real trace.
TEST_F(ThreadsTest, TheTraceOfATcpAgentHoldsItsExactBytes) {
  std::string directory = ::testing::TempDir() + "sluice-gate-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  trace::JsonlRecorder recorder(directory, Logger());
  Registration registration;
  registration.recorder = &recorder;
  open({"r0"}, registration);
  uint16_t port = 0;
  on_shard([&] {
    auto listener = net::listen_tcp(shard_, "127.0.0.1", 0);
    ASSERT_TRUE(listener);
    const std::string address = (*listener)->address();
    port = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    ASSERT_TRUE(gate_.for_operator.serve({"r0"}, std::move(*listener)));
  });
  const std::string body =
      "{ \"model\":\"m\",\n\t\"messages\":[{\"role\":\"user\",\"content\":\"\\ud83d\"}]}";
  std::promise<std::string> got;
  struct Ask {
    static net::awaitable<void> run(net::Shard* shard, uint16_t port, std::string text,
                                    std::promise<std::string>* got) {
      net::BlockingPool names(1);
      auto stream = co_await net::connect_tcp(shard, &names, "127.0.0.1", port, Deadline::in(10s));
      const auto written = co_await (*stream)->write_all(as_byte_span(text));
      EXPECT_TRUE(written);
      std::string buffer(4096, '\0');
      const auto n = co_await (*stream)->read_some(as_writable_byte_span(buffer));
      got->set_value(buffer.substr(0, n.value_or(0)));
    }
  };
  shard_.spawn(Ask::run(&shard_, port, request_text(body), &got));
  const auto item = gate_.for_trainer.next({"r0"}, kForever);
  const llm::Call* call = (*item)->call();
  EXPECT_EQ(call->request().value()->messages[0].text, "\uFFFD");
  auto outcome = gate_.for_trainer.reply(call->id, llm::text_answer("x", llm::Origin::kSampled));
  EXPECT_EQ(outcome.get(), Outcome::kDelivered);
  EXPECT_NE(got.get_future().get().find("200 OK"), std::string::npos);
  close({"r0"});

  const auto trace = trace::load(recorder.location({"r0"}));
  ASSERT_TRUE(trace);
  ASSERT_EQ(trace->calls.size(), 1u);
  EXPECT_EQ(*trace->body(trace->calls[0]), body);
  EXPECT_EQ(trace->calls[0].outcome, Outcome::kDelivered);
}

}  // namespace
}  // namespace sluice::gate
