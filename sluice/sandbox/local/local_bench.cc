// How long a local sandbox takes: to create, to run its first command and a later one, to destroy;
// and how many cycles fit in a second. Medians are the figures to look at.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "sluice/net/testing.h"
#include "sluice/sandbox/local/local.h"

namespace sluice::sandbox::local {
namespace {

using net::testing::run;

struct Place {
  net::Shard shard;
  std::unique_ptr<Backend> backend;

  // Its argument: how many sandboxes are begun ahead.
  explicit Place(benchmark::State& state) {
    BackendOptions options;
    options.ready = static_cast<uint32_t>(state.range(0));
    auto started = Backend::start(options);
    if (!started) {
      state.SkipWithError(started.error().message.c_str());
      return;
    }
    backend = std::move(*started);
  }
  std::unique_ptr<Sandbox> create() {
    auto made = run(shard, backend->create(&shard, Options()));
    return made ? std::move(*made) : nullptr;
  }
  bool exec(Sandbox& sandbox) {
    Command command;
    command.argv = {"/bin/true"};
    auto done = run(shard, sandbox.exec(std::move(command)));
    return done && done->exit.ok();
  }
};

double ms_since(Clock::time_point began) {
  return std::chrono::duration<double, std::milli>(Clock::now() - began).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void cycle(benchmark::State& state) {
  Place place(state);
  std::vector<double> created, first, later, destroyed, whole;
  for (auto _ : state) {
    const auto began = Clock::now();
    auto sandbox = place.create();
    created.push_back(ms_since(began));
    if (!sandbox) {
      state.SkipWithError("no sandbox");
      break;
    }
    auto at = Clock::now();
    bool good = place.exec(*sandbox);
    first.push_back(ms_since(at));
    at = Clock::now();
    good = place.exec(*sandbox) && good;
    const double second = ms_since(at);
    later.push_back(second);
    at = Clock::now();
    good = run(place.shard, sandbox->close()) && good;
    destroyed.push_back(ms_since(at));
    whole.push_back(ms_since(began) - second);
    if (!good) {
      state.SkipWithError("a step failed");
      break;
    }
  }
  state.counters["create_ms"] = median(created);
  state.counters["first_exec_ms"] = median(first);
  state.counters["exec_ms"] = median(later);
  state.counters["destroy_ms"] = median(destroyed);
  state.counters["cycle_ms"] = median(whole);
}
BENCHMARK(cycle)
    ->Arg(4)
    ->Arg(0)
    ->ArgName("ready")
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->MinTime(3);

awaitable<void> cycles(Backend* backend, net::Shard* shard, int count, int* left) {
  for (int i = 0; i < count; ++i) {
    auto sandbox = co_await backend->create(shard, Options());
    if (!sandbox) break;
    Command command;
    command.argv = {"/bin/true"};
    (void)co_await (*sandbox)->exec(std::move(command));
    (void)co_await (*sandbox)->close();
  }
  --*left;
}

// Four at a time.
void throughput(benchmark::State& state) {
  Place place(state);
  int64_t done = 0;
  for (auto _ : state) {
    int left = 4;
    for (int i = 0; i < 4; ++i)
      place.shard.spawn(cycles(place.backend.get(), &place.shard, 25, &left));
    place.shard.run_until([&] { return left == 0; });
    done += 100;
  }
  state.SetItemsProcessed(done);
}
BENCHMARK(throughput)
    ->Arg(4)
    ->Arg(0)
    ->ArgName("ready")
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->MinTime(3);

}  // namespace
}  // namespace sluice::sandbox::local

BENCHMARK_MAIN();
