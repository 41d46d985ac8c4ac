// For tests with a shard on a thread of its own, trainers on others and agents in memory.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "sluice/gate/gate.h"
#include "sluice/net/memory_stream.h"
#include "sluice/trace/memory.h"

namespace sluice::gate::testing {

// Longer than any test runs: whatever returns before was woken by what it waited for, not by time.
constexpr auto kForever = std::chrono::hours(1);

class ThreadsTest : public ::testing::Test {
 protected:
  explicit ThreadsTest(Duration keep_alive = kForever) : gate_(make_gate(options(keep_alive))) {
    shard_.start();
  }

  static GateOptions options(Duration keep_alive) {
    GateOptions options;
    options.keep_alive = keep_alive;
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

inline std::string request_text(std::string_view body, std::string_view header = "Accept: */*") {
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n" + std::string(header) +
         "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

}  // namespace sluice::gate::testing
