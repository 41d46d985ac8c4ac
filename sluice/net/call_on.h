// call_on(): runs a coroutine on another shard and brings its result back, for who lives on one
// shard and has work to do with what lives on another.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "sluice/net/shard.h"
#include "sluice/net/wait.h"

namespace sluice::net {

namespace internal {

template <class T>
struct CallOn {
  CallOn(Shard* h, std::function<awaitable<T>()> m) : here(h), make(std::move(m)) {}

  // On the other shard; `make` and what it holds die there.
  static awaitable<void> run(std::shared_ptr<CallOn> call) {
    std::optional<T> result;
    std::exception_ptr failure;
    try {
      const std::function<awaitable<T>()> begin = std::exchange(call->make, nullptr);
      auto task = begin();
      result.emplace(co_await std::move(task));
    } catch (...) {
      failure = std::current_exception();
    }
    Shard* const back = call->here;
    auto shared = std::make_shared<std::optional<T>>(std::move(result));
    back->post([call = std::move(call), shared = std::move(shared), failure] {
      call->result = std::move(*shared);
      call->failure = failure;
      call->done = true;
      call->ended.notify();
    });
  }

  Shard* const here;
  std::function<awaitable<T>()> make;
  // The rest belongs to `here`.
  std::optional<T> result;
  std::exception_ptr failure;
  bool done = false;
  Signal ended;
};

}  // namespace internal

// Runs the coroutine that `make` returns on `there`; called on `here`. Returns, or throws, what it
// did. If the caller is cancelled, `cancel` is called on `there`, once and possibly before `make`
// or after the end, and the result is waited for all the same. Both functions run on `there`, and
// their captures may die there.
template <class T>
awaitable<T> call_on(Shard* there, Shard* here, std::function<awaitable<T>()> make,
                     std::function<void()> cancel) {
  auto call = std::make_shared<internal::CallOn<T>>(here, std::move(make));
  there->post([there, call] { there->spawn(internal::CallOn<T>::run(call)); });
  while (!call->done) {
    const auto waited = co_await wait_for(&call->ended);
    if (!waited && cancel) there->post(std::exchange(cancel, nullptr));
  }
  if (call->failure) std::rethrow_exception(call->failure);
  co_return std::move(*call->result);
}

}  // namespace sluice::net
