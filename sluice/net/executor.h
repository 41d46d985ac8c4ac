// The coroutine type of the project, and how to leave a coroutine for another thread.
//
// Coroutines are named functions that take values (no capturing lambda, no reference parameter),
// and an expression with co_await holds only names, std::move and constructor calls: others build
// with compilers that miscompile more (CONTRIBUTING.md).
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

namespace sluice::net {

using IoContext = boost::asio::io_context;
// The concrete executor rather than any_io_executor: 0.6 KB less per suspended call.
using Executor = IoContext::executor_type;

template <class T>
using awaitable = boost::asio::awaitable<T, Executor>;

}  // namespace sluice::net
