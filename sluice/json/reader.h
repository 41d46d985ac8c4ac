// Reader: the members of one JSON object, asked for by name and type. It remembers what it was
// asked for, keeps the first mistake with its place, and gives harmless defaults from then on, so
// that the reading code needs no checks of its own. finish() tells the mistake. A member that is
// null is as one that is absent.
//
//   json::Reader in(value, "budget.", json::Unknown::kRefused);
//   budget.calls = in.count("calls").value_or(7);
//   in.object("time", [&](json::Reader& time) { ... });
//   SLUICE_TRY_VOID(in.finish());
//
// A view: the bytes must outlive it. One thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/json/raw.h"

namespace sluice::json {

// What finish() makes of members that nobody asked for.
enum class Unknown : uint8_t { kPassedOver, kRefused };

class Reader {
 public:
  static constexpr size_t kAny = std::numeric_limits<size_t>::max();

  // `where` is what errors put in front of a member's name. Texts longer than `max_text` bytes are
  // a mistake.
  Reader(const Raw& object, std::string where, Unknown unknown = Unknown::kPassedOver,
         size_t max_text = kAny);
  void set_max_text(size_t max_text) { max_text_ = max_text; }

  // The member's value; nullptr if there is none.
  const Raw* find(std::string_view name);

  std::optional<std::string> text(std::string_view name);
  std::string text(std::string_view name, std::string_view otherwise);
  std::optional<bool> flag(std::string_view name);
  // From 0 to `most`.
  std::optional<double> number(std::string_view name, double most);
  std::optional<Duration> seconds(std::string_view name, double most);
  std::optional<uint64_t> count(std::string_view name, double most = 9e15);
  // An integer or a float of any size that fits; 0 if there is none.
  template <class Number = int64_t>
  Number figure(std::string_view name) {
    const Raw* value = find(name);
    return value == nullptr ? 0 : figure_of<Number>(name, *value);
  }
  template <class Number>
  std::vector<Number> figures(std::string_view name) {
    std::vector<Number> out;
    for (const Raw& element : list(name)) out.push_back(figure_of<Number>(name, element));
    return out;
  }
  std::vector<Raw> list(std::string_view name, size_t most = kAny);
  // Texts that are not empty.
  std::vector<std::string> names(std::string_view name, size_t most);
  // The value whose to_string() stands there.
  template <class Enum, size_t kSize>
  Enum one_of(std::string_view name, const std::array<Enum, kSize>& values, Enum otherwise) {
    std::array<std::string_view, kSize> words;
    for (size_t i = 0; i < kSize; ++i) words[i] = to_string(values[i]);
    const auto found = which(name, words);
    return found ? values[*found] : otherwise;
  }
  // The same of two words: whether it is the second. If there is none, it is the first.
  bool is_second(std::string_view name, const std::array<std::string_view, 2>& words) {
    return which(name, words) == 1;
  }

  // Has `read(reader)` read the object under `name`, if there is one. Its mistakes are this one's.
  template <class Read>
  void object(std::string_view name, Read read) {
    if (const Raw* value = find(name)) object(name, *value, read);
  }
  // The same for each object of a list.
  template <class Read>
  void objects(std::string_view name, size_t most, Read read) {
    for (const Raw& each : list(name, most)) object(name, each, read);
  }
  // The same for one that was found already.
  template <class Read>
  void object(std::string_view name, const Raw& value, Read read) {
    Reader in(value, where_ + std::string(name) + ".", unknown_, max_text_);
    read(in);
    take_mistake(in);
  }

  void fail(std::string_view name, std::string_view what);
  // What is wrong with what was read up to now.
  Result<void> so_far() const;
  // The same for the whole of the object.
  Result<void> finish();

 private:
  template <class Number>
  Number figure_of(std::string_view name, const Raw& value) {
    if constexpr (std::is_floating_point_v<Number>) {
      if (const auto real = to_float(value)) return *real;
    } else if (const auto whole = to_integer(value); whole && std::in_range<Number>(*whole)) {
      return static_cast<Number>(*whole);
    }
    fail(name, "must hold numbers that fit");
    return 0;
  }
  // Which of the words stands there; nothing if none does.
  std::optional<size_t> which(std::string_view name, std::span<const std::string_view> words);
  void take_mistake(Reader& of);

  RawObject object_;
  std::array<std::string_view, 16> known_;  // more than any message has, and no allocation
  size_t asked_for_ = 0;
  std::string where_;
  Unknown unknown_;
  size_t max_text_;
  std::optional<Error> mistake_;
};

}  // namespace sluice::json
