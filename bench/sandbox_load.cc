// Times local sandboxes for `./dev bench sandbox`: one after the other, several at once, and many
// alive. Prints one JSON object. usage: sandbox_bench_load CYCLES ALIVE
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/fd.h"
#include "sluice/net/testing.h"
#include "sluice/sandbox/local/local.h"

namespace {

using namespace sluice;
using namespace sluice::sandbox;
using net::testing::run;

constexpr int kAtOnce = 4;

Command nothing() {
  Command command;
  command.argv = {"/bin/true"};
  return command;
}

double ms_since(Clock::time_point began) {
  return std::chrono::duration<double, std::milli>(Clock::now() - began).count();
}

// In MiB, as the kernel judges it.
double available_memory() {
  const auto text = read_file("/proc/meminfo", 1 << 16);
  const size_t at = text ? text->find("MemAvailable:") : Bytes::npos;
  return at == Bytes::npos ? 0 : std::strtod(text->c_str() + at + 13, nullptr) / 1024;
}

[[noreturn]] void give_up(const Error& error) {
  fmt::print(stderr, "sandbox_bench_load: {}\n", error.message);
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) give_up(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

awaitable<void> cycles(Backend* backend, net::Shard* shard, int* to_do, int* working) {
  while ((*to_do)-- > 0) {
    auto sandbox = co_await backend->create(shard, Options());
    if (!sandbox) give_up(sandbox.error());
    auto done = co_await (*sandbox)->exec(nothing());
    if (!done) give_up(done.error());
    auto closed = co_await (*sandbox)->close();
    if (!closed) give_up(closed.error());
  }
  --*working;
}

void print(const char* name, const std::vector<double>& values) {
  fmt::print("\"{}\": [", name);
  for (size_t i = 0; i < values.size(); ++i) fmt::print("{}{:.4f}", i == 0 ? "" : ", ", values[i]);
  fmt::print("],\n");
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 200;
  const int alive = argc > 2 ? std::atoi(argv[2]) : 1000;
  net::Shard shard;
  const auto backend = must(local::Backend::start());
  auto create = [&] {
    return must(run(shard, backend->create(&shard, Options())));
  };
  must(run(shard, create()->close()));

  std::vector<double> whole, creates, firsts, execs, closes;
  for (int i = 0; i < count; ++i) {
    const auto began = Clock::now();
    const auto sandbox = create();
    creates.push_back(ms_since(began));
    auto at = Clock::now();
    must(run(shard, sandbox->exec(nothing())));
    firsts.push_back(ms_since(at));
    const double until_first = ms_since(began);
    for (int j = 0; j < 5; ++j) {
      at = Clock::now();
      must(run(shard, sandbox->exec(nothing())));
      execs.push_back(ms_since(at));
    }
    at = Clock::now();
    must(run(shard, sandbox->close()));
    closes.push_back(ms_since(at));
    whole.push_back(until_first + closes.back());
  }

  std::vector<double> rates;
  for (int round = 0; round < 5; ++round) {
    int to_do = count;
    int working = kAtOnce;
    const auto began = Clock::now();
    for (int i = 0; i < kAtOnce; ++i) {
      shard.spawn(cycles(backend.get(), &shard, &to_do, &working));
    }
    shard.run_until([&] { return working == 0; });
    rates.push_back(1e3 * count / ms_since(began));
  }

  const double before = available_memory();
  const auto began = Clock::now();
  std::vector<std::unique_ptr<Sandbox>> all;
  for (int i = 0; i < alive; ++i) all.push_back(create());
  const double made_ms = ms_since(began);
  const double after = available_memory();
  // They live: the first, the last and some between answer.
  for (size_t i = 0; i < all.size(); i += 97) must(run(shard, all[i]->exec(nothing())));
  if (!all.empty()) must(run(shard, all.back()->exec(nothing())));
  const auto ending = Clock::now();
  for (auto& sandbox : all) must(run(shard, sandbox->close()));
  const double closed_ms = ms_since(ending);
  // What they took comes back, a little later. Other programs' memory moves as well: the mean of
  // fall and rise sees less of that.
  must(run(shard, net::sleep_for(std::chrono::seconds(2))));
  const double end = available_memory();

  fmt::print("{{\n");
  print("cycle_ms", whole);
  print("create_ms", creates);
  print("first_exec_ms", firsts);
  print("exec_ms", execs);
  print("close_ms", closes);
  print("cycles_per_s", rates);
  fmt::print("\"alive\": {}, \"alive_made_ms\": {:.1f}, \"alive_closed_ms\": {:.1f},\n", alive,
             made_ms, closed_ms);
  fmt::print("\"idle_mib\": {:.4f}\n}}\n", ((before - after) + (end - after)) / 2 / alive);
  return 0;
}
