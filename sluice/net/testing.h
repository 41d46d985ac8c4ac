// For tests: runs one coroutine to its end on the calling thread.
#pragma once

#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "sluice/net/shard.h"

namespace sluice::net::testing {

namespace internal {
template <class T>
awaitable<void> store(awaitable<T> task, std::optional<T>* result, bool* done,
                      std::exception_ptr* failure) {
  try {
    result->emplace(co_await std::move(task));
  } catch (...) {
    *failure = std::current_exception();
  }
  *done = true;
}
inline awaitable<void> finish(awaitable<void> task, bool* done, std::exception_ptr* failure) {
  try {
    co_await std::move(task);
  } catch (...) {
    *failure = std::current_exception();
  }
  *done = true;
}
}  // namespace internal

// What `task` returns; its exception is rethrown.
template <class T>
T run(Shard& shard, awaitable<T> task) {
  bool done = false;
  std::exception_ptr failure;
  if constexpr (std::is_void_v<T>) {
    shard.spawn(internal::finish(std::move(task), &done, &failure));
    shard.run_until([&] { return done; });
    if (failure) std::rethrow_exception(failure);
  } else {
    std::optional<T> result;
    shard.spawn(internal::store(std::move(task), &result, &done, &failure));
    shard.run_until([&] { return done; });
    if (failure) std::rethrow_exception(failure);
    return std::move(*result);
  }
}

}  // namespace sluice::net::testing
