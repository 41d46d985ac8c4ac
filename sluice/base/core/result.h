// Result<T>: a value or an Error.
//
//   Result<int> parse(std::string_view text);
//   SLUICE_TRY(int n, parse(text));         // returns the Error from this function
//   SLUICE_CO_TRY(int n, co_await read());  // the same inside a coroutine
//
// Plain values; any thread. Built on tl::expected (docs/dependencies.md).
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include <tl/expected.hpp>

#include "sluice/base/core/error.h"

namespace sluice {

template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
  using Base = tl::expected<T, Error>;

 public:
  Result()
    requires std::is_void_v<T> || std::default_initializable<T>
  = default;
  Result(Error error) : Base(tl::unexpect, std::move(error)) {}  // NOLINT: implicit by design
  template <class U>
    requires(!std::is_void_v<T> && std::convertible_to<U, T> &&
             !std::same_as<std::remove_cvref_t<U>, Result> &&
             !std::same_as<std::remove_cvref_t<U>, Error>)
  Result(U&& value) : Base(tl::in_place, std::forward<U>(value)) {}  // NOLINT: implicit by design
};

}  // namespace sluice

#define SLUICE_CONCAT_(a, b) a##b
#define SLUICE_CONCAT(a, b) SLUICE_CONCAT_(a, b)
#define SLUICE_TRY_(decl, expr, result, leave)  \
  auto result = (expr);                         \
  if (!result) leave std::move(result).error(); \
  decl = std::move(*result)
#define SLUICE_CHECK_OK_(expr, result, leave)     \
  do {                                            \
    auto result = (expr);                         \
    if (!result) leave std::move(result).error(); \
  } while (false)

// Declares or assigns `decl` from the value of `expr`, or returns its Error.
#define SLUICE_TRY(decl, expr) \
  SLUICE_TRY_(decl, expr, SLUICE_CONCAT(sluice_result_, __LINE__), return)
#define SLUICE_CO_TRY(decl, expr) \
  SLUICE_TRY_(decl, expr, SLUICE_CONCAT(sluice_result_, __LINE__), co_return)
// The same for a Result<void>.
#define SLUICE_TRY_VOID(expr) \
  SLUICE_CHECK_OK_(expr, SLUICE_CONCAT(sluice_result_, __LINE__), return)
#define SLUICE_CO_TRY_VOID(expr) \
  SLUICE_CHECK_OK_(expr, SLUICE_CONCAT(sluice_result_, __LINE__), co_return)
