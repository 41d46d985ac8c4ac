#include "sluice/net/shard.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "sluice/base/core/check.h"

namespace sluice::net {

namespace asio = boost::asio;
using UseAwaitable = asio::use_awaitable_t<Executor>;
using Timer = asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, Executor>;

Shard::Shard(int index)
    : index_(index),
      work_(context_.get_executor()),
      wheel_(context_.get_executor()),
      thread_id_(std::this_thread::get_id()) {}

Shard::~Shard() {
  stop();
}

void Shard::post(std::function<void()> work) {
  asio::post(context_, std::move(work));
}

void Shard::spawn(awaitable<void> task) {
  asio::co_spawn(context_.get_executor(), std::move(task), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
}

void Shard::start() {
  CHECK(!thread_.joinable());
  thread_ = std::thread([this] {
    thread_id_ = std::this_thread::get_id();
    context_.run();
  });
  // Whoever started it must not take itself for the shard's thread while that is on its way.
  thread_id_ = thread_.get_id();
}

void Shard::stop() {
  context_.stop();
  if (thread_.joinable()) thread_.join();
}

void Shard::run_until(const std::function<bool()>& done) {
  CHECK(!thread_.joinable());
  thread_id_ = std::this_thread::get_id();
  while (!done()) {
    if (context_.stopped()) return;
    context_.run_one();
  }
}

// A suspended coroutine's handler, type-erased. (any_completion_handler of Asio 1.26 recurses for
// ever when it is moved through a lambda.)
struct Signal::Waiter {
  virtual ~Waiter() = default;
  virtual void resume() = 0;
};

template <class Handler>
struct Signal::WaiterOf final : Waiter {
  explicit WaiterOf(Handler h) : handler(std::move(h)) {}
  void resume() override {
    auto slot = asio::get_associated_cancellation_slot(handler);
    if (slot.is_connected()) slot.clear();
    asio::post(std::move(handler));
  }
  Handler handler;
};

Signal::Signal() = default;
Signal::~Signal() = default;

awaitable<void> Signal::wait() {
  if (!std::exchange(notified_, false)) {
    CHECK(!waiter_);
    auto initiate = [this](auto handler) {
      auto slot = asio::get_associated_cancellation_slot(handler);
      if (slot.is_connected()) {
        slot.assign([this](asio::cancellation_type) { notify(); });
      }
      waiter_ = std::make_unique<WaiterOf<decltype(handler)>>(std::move(handler));
    };
    auto token = UseAwaitable();
    co_await asio::async_initiate<UseAwaitable, void()>(std::move(initiate), token);
    notified_ = false;
  }
}

void Signal::notify() {
  if (!waiter_) {
    notified_ = true;
    return;
  }
  const auto waiter = std::move(waiter_);
  waiter->resume();
}

TaskGroup::~TaskGroup() {
  CHECK(tasks_.empty());
}

namespace {

awaitable<void> without_throwing_on_cancel(awaitable<void> task) {
  co_await kNoThrowWhenCancelled;
  co_await std::move(task);
}

}  // namespace

void TaskGroup::spawn(awaitable<void> task) {
  spawn_bare(without_throwing_on_cancel(std::move(task)));
}

void TaskGroup::spawn_bare(awaitable<void> task) {
  const auto entry = tasks_.emplace(tasks_.end());
  auto ended = [this, entry](std::exception_ptr failure) {
    if (failure && !failure_) failure_ = failure;
    tasks_.erase(entry);
    if (tasks_.empty() && joining_) empty_.notify();
  };
  asio::co_spawn(executor_, std::move(task),
                 asio::bind_cancellation_slot(entry->signal.slot(), std::move(ended)));
}

void TaskGroup::cancel() {
  // Emitting can end a task at once and unlink its entry: step first.
  for (auto it = tasks_.begin(); it != tasks_.end();) {
    Task& task = *it++;
    task.signal.emit(asio::cancellation_type::terminal);
  }
}

awaitable<void> TaskGroup::join() {
  joining_ = true;
  while (!tasks_.empty()) co_await empty_.wait();
  joining_ = false;
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

awaitable<Result<void>> sleep_until(Deadline deadline) {
  const auto executor = co_await asio::this_coro::executor;
  Timer timer(executor);
  timer.expires_at(deadline.at());
  auto token = asio::as_tuple(UseAwaitable());
  const auto result = co_await timer.async_wait(token);
  if (std::get<0>(result)) co_return Error(ErrorCode::kCancelled, "cancelled while waiting");
  co_return Result<void>();
}

struct BlockingPool::State {
  explicit State(int threads) : pool(static_cast<size_t>(threads)) {}
  asio::thread_pool pool;
};

BlockingPool::BlockingPool(int threads) : state_(std::make_unique<State>(threads)) {}

BlockingPool::~BlockingPool() {
  state_->pool.join();
}

awaitable<void> BlockingPool::run(std::function<void()> work) {
  // The guard keeps the caller's loop alive while only the pool works for it.
  auto initiate = [this, work = std::move(work)](auto handler) mutable {
    auto guard = asio::make_work_guard(asio::get_associated_executor(handler));
    asio::post(state_->pool, [work = std::move(work), handler = std::move(handler),
                              guard = std::move(guard)]() mutable {
      work();
      asio::post(guard.get_executor(), std::move(handler));
    });
  };
  auto token = UseAwaitable();
  co_await asio::async_initiate<UseAwaitable, void()>(std::move(initiate), token);
}

}  // namespace sluice::net
