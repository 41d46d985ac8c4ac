// The gate with its shard on one thread, trainers on others and agents over TCP: what must hold
// whichever of them is first. Run under TSan.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <vector>

#include "sluice/gate/testing.h"
#include "sluice/gate/threads_testing.h"
#include "sluice/net/socket.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/reader.h"

namespace sluice::gate {
namespace {

using namespace std::chrono_literals;
using llm::Outcome;
using testing::kForever;
using testing::request_text;
using testing::ThreadsTest;

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

// Waits for its answer, whatever it is: to the end of a whole one, or until a stream tells of an
// error.
net::awaitable<void> park_stream(net::MemoryListener* listener, std::promise<std::string>* got) {
  auto stream = listener->connect();
  const std::string text =
      request_text(R"({"model":"m","messages":[{"role":"user"}],"stream":true})");
  const auto written = co_await stream->write_all(as_byte_span(text));
  EXPECT_TRUE(written);
  std::string seen, buffer(4096, '\0');
  while (seen.find("\"error\"") == std::string::npos) {
    const auto n = co_await stream->read_some(as_writable_byte_span(buffer));
    if (!n || *n == 0) break;
    seen.append(buffer, 0, *n);
  }
  got->set_value(seen);
}

// By another thread, and by the loop of another shard. Nothing else would wake the call for an
// hour.
TEST_F(ThreadsTest, ACancelFromElsewhereWakesAParkedCall) {
  net::Shard other;
  other.start();
  for (int i = 0; i < 20; ++i) {
    const bool streamed = i % 2 == 0, from_shard = i % 4 < 2;
    const RolloutId id{"r" + std::to_string(i)};
    net::MemoryListener* listener = open(id);
    std::promise<std::string> agent;
    shard_.spawn(streamed ? park_stream(listener, &agent) : park(listener, &agent));
    const auto item = gate_.for_trainer.next(id, kForever);
    ASSERT_TRUE(item && *item);
    const auto cancel = [this, id] {
      gate_.for_trainer.cancel(id, "stale");
    };
    from_shard ? other.post(cancel) : cancel();
    const std::string told = agent.get_future().get();
    EXPECT_NE(told.find(streamed ? "200 OK" : "400"), std::string::npos) << told;
    EXPECT_NE(told.find("was cancelled"), std::string::npos) << told;
    EXPECT_EQ(counters(id).ended(Outcome::kCancelled), 1u);
    close(id);
  }
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
  std::string directory = ::testing::TempDir() + "sluice-test-gate-XXXXXX";
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
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace sluice::gate
