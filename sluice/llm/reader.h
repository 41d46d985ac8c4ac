// Reader: the members of an answer's JSON, read one by one. Internal to the room; one thread.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/base/core/result.h"
#include "sluice/json/raw.h"
#include "sluice/llm/answer.h"

namespace sluice::llm {

// Reads members of one object; the first mistake is kept and everything after it is a default.
class Reader {
 public:
  Reader(const json::Raw& object, std::string where) : where_(std::move(where)) {
    auto fields = json::fields(object);
    if (fields) {
      object_ = std::move(*fields);
    } else {
      mistake_ = fields.error();
    }
  }

  std::string text(std::string_view name) {
    const json::Raw* value = find(name);
    if (value == nullptr || value->is(json::Type::kNull)) return {};
    auto text = json::to_text(*value);
    if (!text) fail(name, "must be a string");
    return text.value_or("");
  }

  template <class Number = int64_t>
  Number integer(std::string_view name) {
    const json::Raw* value = find(name);
    if (value == nullptr || value->is(json::Type::kNull)) return 0;
    return number<Number>(name, *value);
  }

  // A number that must be there.
  template <class Number>
  Number number_of(std::string_view name) {
    const json::Raw* value = find(name);
    if (value != nullptr) return number<Number>(name, *value);
    fail(name, "is missing");
    return 0;
  }

  template <class Number>
  std::vector<Number> numbers(std::string_view name) {
    std::vector<Number> out;
    for (const json::Raw& element : list(name)) out.push_back(number<Number>(name, element));
    return out;
  }

  std::vector<json::Raw> list(std::string_view name) {
    const json::Raw* value = find(name);
    if (value == nullptr || value->is(json::Type::kNull)) return {};
    auto elements = json::elements(*value);
    if (!elements) fail(name, "must be an array");
    return elements.value_or(std::vector<json::Raw>());
  }

  const json::Raw* find(std::string_view name) {
    if (asked_for_ < known_.size()) known_[asked_for_++] = name;
    return object_.find(name);
  }

  template <class Enum, size_t kSize>
  Enum one_of(std::string_view name, const std::array<Enum, kSize>& values, Enum otherwise) {
    const json::Raw* value = find(name);
    if (value == nullptr || value->is(json::Type::kNull)) return otherwise;
    const std::string given = text(name);
    for (const Enum each : values) {
      if (to_string(each) == given) return each;
    }
    fail(name, "has no such value: " + given);
    return otherwise;
  }

  void fail(std::string_view name, std::string_view what) {
    if (!mistake_) {
      mistake_ = Error(ErrorCode::kInvalidArgument,
                       "answer: " + where_ + std::string(name) + ": " + std::string(what),
                       ErrorOrigin::kCaller);
    }
  }
  Result<void> finish(Unknown unknown = Unknown::kPassedOver) {
    if (unknown == Unknown::kRefused) refuse_unknown();
    if (mistake_) return *mistake_;
    return {};
  }

 private:
  template <class Number>
  Number number(std::string_view name, const json::Raw& value) {
    if constexpr (std::is_floating_point_v<Number>) {
      if (const auto real = json::to_float(value)) return *real;
    } else if (const auto whole = json::to_integer(value); whole && std::in_range<Number>(*whole)) {
      return static_cast<Number>(*whole);
    }
    fail(name, "must hold numbers that fit");
    return 0;
  }

  void refuse_unknown() {
    const auto end = known_.begin() + asked_for_;
    for (const json::RawField& field : object_.fields) {
      if (std::find(known_.begin(), end, field.name) == end) fail(field.name, "is not known here");
    }
  }

  json::RawObject object_;
  std::array<std::string_view, 16> known_;  // more than any message has, and no allocation
  size_t asked_for_ = 0;
  std::string where_;
  std::optional<Error> mistake_;
};

}  // namespace sluice::llm
