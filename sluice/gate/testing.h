// For tests: an agent's connection to a gate, in memory; policies that do as they are told; and a
// fixture with one gate, one rollout and a trainer. Everything runs on the thread that calls;
// waiting means running the shard.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "sluice/gate/gate.h"
#include "sluice/llm/answer.h"
#include "sluice/net/memory_stream.h"
#include "sluice/net/testing.h"
#include "sluice/net/wait.h"
#include "sluice/trace/memory.h"

namespace sluice::gate::testing {

// How a keep-alive frame of the dialect `chat` ends.
inline constexpr std::string_view kChatKeepAlive =
    R"("delta":{},"logprobs":null,"finish_reason":null}]})";

// Runs the shard until `done()`; throws after a time that no working test needs.
inline void run_until(net::Shard& shard, const std::function<bool()>& done) {
  bool late = false, is_done = false;
  net::Wheel::Timer guard(shard.wheel());
  guard.arm(Deadline::in(std::chrono::seconds(30)), [&late] { late = true; });
  shard.run_until([&] { return late || (is_done = done()); });
  if (!is_done) throw std::runtime_error("nothing happened for 30 s");
}

// Runs what can run now.
inline void settle(net::Shard& shard) {
  while (shard.context().poll() > 0) {
  }
}

template <class T>
T get(net::Shard& shard, std::future<T> future) {
  run_until(shard,
            [&] { return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready; });
  return future.get();
}

struct Response {
  int status = 0;
  std::string head;
  std::string body;  // decoded
};

// One connection of an agent. The gate can write `credit` bytes that it has not read.
class Agent {
 public:
  Agent(net::Shard& shard, net::MemoryListener& listener, size_t credit = 256 * 1024)
      : shard_(shard), stream_(listener.connect(credit)) {}

  net::MemoryStream& stream() { return *stream_; }

  void send(std::string bytes) {
    net::testing::run(shard_, write(stream_.get(), std::move(bytes)));
  }

  void post(std::string_view path, std::string_view body, std::string_view headers = "") {
    send("POST " + std::string(path) + " HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json" +
         "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + std::string(headers) +
         "\r\n" + std::string(body));
  }

  void get(std::string_view path, std::string_view method = "GET") {
    send(std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: gate\r\n\r\n");
  }

  // Everything that has arrived and was not taken by response().
  const std::string& seen() {
    received_ += stream_->take_unread();
    return received_;
  }

  void wait_for(std::string_view text) {
    run_until(shard_, [&] { return seen().find(text) != std::string::npos; });
  }

  // The next whole response.
  Response response() {
    std::optional<Response> out;
    run_until(shard_, [&] {
      out = take_response();
      return out.has_value();
    });
    return std::move(*out);
  }

  bool closed() {
    seen();
    return stream_->peer_gone();
  }
  void wait_until_closed() {
    run_until(shard_, [&] { return closed(); });
  }

  // Sends no more, and reads on.
  void finish() { stream_->finish(); }
  // How the agent leaves: the gate sees the same at first, and a reset when it writes.
  void hang_up() { stream_->close(); }
  void reset() { stream_->reset(); }

 private:
  static net::awaitable<void> write(net::MemoryStream* stream, std::string bytes) {
    const auto written = co_await stream->write_all(as_byte_span(bytes));
    if (!written) throw std::runtime_error("the gate does not read: " + written.error().message);
  }

  std::optional<Response> take_response() {
    seen();
    const size_t end = received_.find("\r\n\r\n");
    if (end == std::string::npos) return std::nullopt;
    Response out;
    out.head = received_.substr(0, end + 2);
    out.status = std::stoi(out.head.substr(9, 3));
    size_t at = end + 4;
    const size_t length = out.head.find("Content-Length: ");
    if (length != std::string::npos) {
      const size_t size = std::stoul(out.head.substr(length + 16));
      if (received_.size() < at + size) return std::nullopt;
      out.body = received_.substr(at, size);
      at += size;
    } else {
      for (;;) {
        const size_t line = received_.find("\r\n", at);
        if (line == std::string::npos) return std::nullopt;
        const size_t size = std::stoul(received_.substr(at, line - at), nullptr, 16);
        if (received_.size() < line + 2 + size + 2) return std::nullopt;
        out.body += received_.substr(line + 2, size);
        at = line + 2 + size + 2;
        if (size == 0) break;
      }
    }
    received_.erase(0, at);
    return out;
  }

  net::Shard& shard_;
  std::unique_ptr<net::MemoryStream> stream_;
  std::string received_;
};

// Calls `submit` for each call; answers nothing by itself.
class FunctionPolicy final : public Policy {
 public:
  using Function = std::function<void(std::shared_ptr<const llm::Call>, Reply)>;
  explicit FunctionPolicy(Function function) : function_(std::move(function)) {}
  void submit(std::shared_ptr<const llm::Call> call, Reply reply) override {
    function_(std::move(call), std::move(reply));
  }

 private:
  Function function_;
};

inline std::shared_ptr<Policy> answering(std::string text) {
  return std::make_shared<FunctionPolicy>(
      [text = std::move(text)](std::shared_ptr<const llm::Call>, Reply reply) {
        reply.answer(llm::text_answer(text, llm::Origin::kSampled));
      });
}

// Pieces given one after the other.
class FakeRelay final : public Relay {
 public:
  FakeRelay(int status, std::vector<Result<Bytes>> pieces)
      : status_(status), pieces_(std::move(pieces)) {}

  Result<void> opens;
  net::Signal* wait_before_end = nullptr;  // holds the last piece back

  net::awaitable<Result<void>> open() override { co_return opens; }
  int status() const override { return status_; }
  net::Headers headers() const override { return {{"Content-Type", "text/event-stream"}}; }
  net::awaitable<Result<Bytes>> read_some() override {
    if (next_ == pieces_.size()) {
      if (wait_before_end != nullptr) SLUICE_CO_TRY_VOID(co_await net::wait_for(wait_before_end));
      co_return Bytes();
    }
    co_return pieces_[next_++];
  }

 private:
  int status_;
  std::vector<Result<Bytes>> pieces_;
  size_t next_ = 0;
};

// One gate with one rollout, served in memory, and a trainer beside it.
class GateFixture : public ::testing::Test {
 protected:
  static constexpr std::string_view kPath = "/rollout/r0/v1/chat/completions";

  GateFixture() { registration_.origins.tokens = OriginRule::Tokens::kWaived; }

  // A chat request's body; `number` makes it differ from others.
  static std::string body(int number = 0, std::string_view more = "") {
    return R"({"model":"m","messages":[{"role":"user","content":"question )" +
           std::to_string(number) + "\"}]" + std::string(more) + "}";
  }
  static std::string streaming(int number = 0) {
    return body(number, R"(,"stream":true,"stream_options":{"include_usage":true})");
  }

  void TearDown() override {
    if (opened_) close();
  }

  // With defaults that tests change first.
  enum class Agents { kAdmitted, kNotYet };
  void open(Agents agents = Agents::kAdmitted) {
    gate_.emplace(make_gate(options_));
    registration_.id = id_;
    registration_.shard = &shard_;
    if (registration_.recorder == nullptr) registration_.recorder = &recorder_;
    ASSERT_TRUE(gate_->for_operator.open(registration_));
    opened_ = true;
    auto listener = std::make_unique<net::MemoryListener>(shard_);
    listener_ = listener.get();
    ASSERT_TRUE(gate_->for_operator.serve(id_, std::move(listener)));
    if (agents == Agents::kAdmitted) gate_->for_operator.admit(id_);
  }

  void close() {
    net::testing::run(shard_, gate_->for_operator.close(id_));
    opened_ = false;
  }

  Agent agent() { return Agent(shard_, *listener_); }

  // The next call that waits for the trainer.
  std::shared_ptr<const llm::Call> next_call() {
    std::optional<Item> item;
    run_until(shard_, [&] {
      auto taken = gate_->for_trainer.next(id_, Duration::zero());
      if (taken) item = std::move(*taken);
      return item.has_value();
    });
    return std::get<0>(item->what);
  }
  bool a_call_waits() {
    settle(shard_);
    const auto taken = gate_->for_trainer.next(id_, Duration::zero());
    return taken && taken->has_value();
  }

  std::future<Result<llm::Outcome>> reply(const CallId& call, std::string text) {
    return gate_->for_trainer.reply(call, llm::text_answer(std::move(text), llm::Origin::kSampled));
  }
  Result<llm::Outcome> outcome(std::future<Result<llm::Outcome>> future) {
    return get(shard_, std::move(future));
  }
  // Answers whatever call comes next.
  Result<llm::Outcome> answer_next(std::string text) {
    const auto call = next_call();
    return outcome(reply(call->id, std::move(text)));
  }

  Counters counters() { return *gate_->for_operator.counters(id_); }

  // What the recorder was told, in order; ends with their outcomes.
  std::vector<std::string> recorded() {
    std::vector<std::string> out;
    for (const auto& entry : recorder_.entries()) {
      out.push_back(entry.kind == "ended" ? "ended:" + std::string(to_string(entry.outcome))
                                          : entry.kind);
    }
    return out;
  }

  net::Shard shard_;
  trace::MemoryRecorder recorder_;
  const RolloutId id_{"r0"};
  GateOptions options_;
  Registration registration_;
  std::optional<Handles> gate_;
  bool opened_ = false;
  net::MemoryListener* listener_ = nullptr;
};

}  // namespace sluice::gate::testing
