// A recorder whose disk does not answer, for `./dev bench sandbox`: local sandboxes on one shard,
// in each an agent that asks the gate over and over, and a trainer that answers. Then no write of
// the recorder returns for SECONDS, which is longer than a guest waits for a sign of life. Prints
// one JSON object. usage: stall_bench_load SANDBOXES SECONDS
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "sluice/gate/gate.h"
#include "sluice/llm/answer.h"
#include "sluice/sandbox/local/local.h"
#include "sluice/trace/jsonl.h"
#include "sluice/trace/reader.h"
#include "sluice/trace/testing.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using net::testing::run;

[[noreturn]] void give_up(const Error& error) {
  fmt::print(stderr, "stall_bench_load: {}\n", error.message);
  std::_Exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) give_up(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// Asks something new ten times a second.
std::string agent(const std::string& port) {
  return fmt::format(R"(
for ((i = 0; ; i++)); do
  exec 3<>/dev/tcp/127.0.0.1/{} || exit 1
  body="{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"$i\"}}]}}"
  printf 'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n' >&3
  printf 'Content-Length: %d\r\n\r\n%s' ${{#body}} "$body" >&3
  cat <&3 >/dev/null
  exec 3<&-
  sleep 0.1
done)",
                     port);
}

class Bench {
 public:
  explicit Bench(size_t sandboxes) : places_(sandboxes) {
    std::string pattern = std::filesystem::temp_directory_path() / "sluice-stall-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::_Exit(1);
    directory_ = pattern;
    recorder_.emplace(directory_, Logger(), trace::JsonlRecorder::Options{.files = disk_});
    keep_ticking();
  }
  ~Bench() { std::filesystem::remove_all(directory_); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void go(Duration stall) {
    for (size_t i = 0; i < places_.size(); ++i) must(run(shard_, begin(i)));
    std::thread trainer([this] { train(); });
    run_until([this] { return delivered() >= 2 * places_.size(); });

    disk_->stall();
    run_until([this] { return disk_->is_waited_for(); });
    const uint64_t delivered_before = delivered(), acknowledged_before = acknowledged_;
    worst_lag_ = {};
    const Deadline over = Deadline::in(stall);
    run_until([&] { return over.expired(); });
    const uint64_t answered = delivered() - delivered_before;
    const uint64_t acknowledged = acknowledged_ - acknowledged_before;
    const Duration lag = worst_lag_;
    size_t lost = 0;
    for (Place& place : places_) lost += run(shard_, lives(&place)) ? 0 : 1;

    disk_->resume();
    size_t calls = 0, ended = 0;
    for (size_t i = 0; i < places_.size(); ++i) run(shard_, end(i));
    stop_ = true;
    trainer.join();
    for (size_t i = 0; i < places_.size(); ++i) {
      for (const auto& call : must(trace::load(recorder_->location(id(i)))).calls) {
        ++calls;
        if (call.outcome) ++ended;
      }
    }
    fmt::print(
        "{{\"sandboxes\":{},\"stall_s\":{},\"lost_sandboxes\":{},\"answered_in_stall\":{},"
        "\"acknowledged_in_stall\":{},\"loop_lag_ms_max\":{:.1f},\"recorded_calls\":{},"
        "\"recorded_ends\":{}}}\n",
        places_.size(), std::chrono::duration<double>(stall).count(), lost, answered, acknowledged,
        std::chrono::duration<double, std::milli>(lag).count(), calls, ended);
  }

 private:
  struct Place {
    std::unique_ptr<sandbox::Sandbox> sandbox;
    std::unique_ptr<sandbox::Job> agent;
  };
  static constexpr auto kTick = 10ms;

  static RolloutId id(size_t i) { return {fmt::format("r{}", i)}; }
  uint64_t delivered() const {
    return gate_.for_trainer.totals().outcomes[static_cast<size_t>(llm::Outcome::kDelivered)];
  }
  void run_until(const std::function<bool()>& done) { shard_.run_until(done); }

  // Also notes how late the loop comes to it.
  void keep_ticking() {
    const Deadline due = Deadline::in(kTick);
    tick_.arm(due, [this, due] {
      worst_lag_ = std::max<Duration>(worst_lag_, Clock::now() - due.at());
      keep_ticking();
    });
  }

  net::awaitable<Result<void>> begin(size_t i) {
    Place& place = places_[i];
    gate::Registration rollout;
    rollout.id = id(i);
    rollout.shard = &shard_;
    rollout.recorder = &*recorder_;
    rollout.budget.calls = 0;
    SLUICE_CO_TRY_VOID(gate_.for_operator.open(std::move(rollout)));
    sandbox::Options options;
    SLUICE_CO_TRY(place.sandbox, co_await backend_->create(&shard_, std::move(options)));
    SLUICE_CO_TRY(auto listener, co_await place.sandbox->listen(0));
    const std::string address = listener->address();
    SLUICE_CO_TRY_VOID(gate_.for_operator.serve(id(i), std::move(listener)));
    gate_.for_operator.admit(id(i));
    sandbox::Command command =
        sandbox::Command::shell(agent(address.substr(address.rfind(':') + 1)));
    SLUICE_CO_TRY(place.agent, co_await place.sandbox->start(std::move(command)));
    co_return Result<void>();
  }

  // Its guest does as it is told, and its agent runs.
  static net::awaitable<bool> lives(Place* place) {
    sandbox::Command nothing;
    nothing.argv = {"/bin/true"};
    const auto done = co_await place->sandbox->exec(std::move(nothing));
    if (!done || !done->exit.ok()) co_return false;
    const Deadline now = Deadline::in(1ms);
    const auto ended = co_await place->agent->wait(now);
    co_return !ended && ended.error().code == ErrorCode::kTimedOut;
  }

  net::awaitable<void> end(size_t i) {
    (void)co_await places_[i].sandbox->close();
    const RolloutId rollout = id(i);
    co_await gate_.for_operator.close(rollout);
    recorder_->closed(rollout, {});
    const auto flushed = co_await trace::flushed(&*recorder_, &shard_, rollout);
    if (!flushed) give_up(flushed.error());
  }

  void train() {
    while (!stop_) {
      for (const gate::Item& item : gate_.for_trainer.next_batch(64, 100ms)) {
        if (item.call() == nullptr) continue;
        gate::Trainer::Replied told;
        told.accepted = [this](Result<void> accepted) {
          if (accepted) ++acknowledged_;
        };
        gate_.for_trainer.reply(item.call()->id, llm::text_answer("ok", llm::Origin::kCanned),
                                std::move(told));
      }
    }
  }

  net::Shard shard_;
  net::Wheel::Timer tick_{shard_.wheel()};
  Duration worst_lag_{};
  std::string directory_;
  const std::shared_ptr<trace::testing::StallingDisk> disk_ =
      std::make_shared<trace::testing::StallingDisk>();
  std::optional<trace::JsonlRecorder> recorder_;
  gate::Handles gate_ = gate::make_gate({});
  const std::unique_ptr<sandbox::Backend> backend_ = must(sandbox::local::Backend::start());
  std::vector<Place> places_;
  std::atomic<uint64_t> acknowledged_ = 0;
  std::atomic<bool> stop_ = false;
};

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  const int sandboxes = argc > 1 ? std::atoi(argv[1]) : 8;
  const int seconds = argc > 2 ? std::atoi(argv[2]) : 30;
  sluice::Bench(static_cast<size_t>(sandboxes)).go(std::chrono::seconds(seconds));
  return 0;
}
