#include "sluice/json/reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace sluice::json {

Reader::Reader(const Raw& object, std::string where, Unknown unknown, size_t max_text)
    : where_(std::move(where)), unknown_(unknown), max_text_(max_text) {
  auto read = fields(object);
  if (read) {
    object_ = std::move(*read);
  } else {
    fail("", "must be an object");
  }
}

const Raw* Reader::find(std::string_view name) {
  if (asked_for_ < known_.size()) known_[asked_for_++] = name;
  const Raw* value = object_.find(name);
  return value == nullptr || value->is(Type::kNull) ? nullptr : value;
}

std::optional<std::string> Reader::text(std::string_view name) {
  const Raw* value = find(name);
  if (value == nullptr) return std::nullopt;
  auto text = to_text(*value);
  if (!text) {
    fail(name, "must be a string");
  } else if (text->size() > max_text_) {
    fail(name, fmt::format("is longer than {} bytes", max_text_));
  } else {
    return std::move(*text);
  }
  return std::nullopt;
}

std::string Reader::text(std::string_view name, std::string_view otherwise) {
  auto given = text(name);
  return given ? std::move(*given) : std::string(otherwise);
}

std::optional<bool> Reader::flag(std::string_view name) {
  const Raw* value = find(name);
  if (value == nullptr) return std::nullopt;
  const auto flag = to_bool(*value);
  if (!flag) fail(name, "must be true or false");
  return flag;
}

std::optional<double> Reader::number(std::string_view name, double most) {
  const Raw* value = find(name);
  if (value == nullptr) return std::nullopt;
  const auto number = to_double(*value);
  if (number && *number >= 0 && *number <= most) return number;
  fail(name, fmt::format("must be a number from 0 to {}", most));
  return std::nullopt;
}

std::optional<Duration> Reader::seconds(std::string_view name, double most) {
  const auto value = number(name, most);
  return value ? std::optional(from_seconds(*value)) : std::nullopt;
}

std::optional<uint64_t> Reader::count(std::string_view name, double most) {
  const auto value = number(name, most);
  if (!value) return std::nullopt;
  if (std::trunc(*value) == *value) return static_cast<uint64_t>(*value);
  fail(name, "must be a whole number");
  return std::nullopt;
}

std::vector<Raw> Reader::list(std::string_view name, size_t most) {
  const Raw* value = find(name);
  if (value == nullptr) return {};
  auto list = elements(*value);
  if (list && list->size() <= most) return std::move(*list);
  fail(name, most == kAny ? "must be an array" : fmt::format("must be a list of at most {}", most));
  return {};
}

std::vector<std::string> Reader::names(std::string_view name, size_t most) {
  std::vector<std::string> out;
  for (const Raw& each : list(name, most)) {
    auto text = to_text(each);
    if (!text || text->empty() || text->size() > max_text_) {
      fail(name, "must hold names");
      return {};
    }
    out.push_back(std::move(*text));
  }
  return out;
}

std::optional<size_t> Reader::which(std::string_view name,
                                    std::span<const std::string_view> words) {
  const auto given = text(name);
  if (!given) return std::nullopt;
  const auto it = std::find(words.begin(), words.end(), *given);
  if (it != words.end()) return it - words.begin();
  fail(name, fmt::format("must be one of: {}", fmt::join(words, ", ")));
  return std::nullopt;
}

void Reader::fail(std::string_view name, std::string_view what) {
  if (mistake_) return;
  std::string place = where_ + std::string(name);
  // Of the object itself, without what leads to a member's name.
  if (name.empty()) place.resize(place.find_last_not_of(".: ") + 1);
  if (place.empty()) place = "the message";
  mistake_ =
      Error(ErrorCode::kInvalidArgument, place + ": " + std::string(what), ErrorOrigin::kCaller);
}

void Reader::take_mistake(Reader& of) {
  const auto read = of.finish();
  if (!read && !mistake_) mistake_ = read.error();
}

Result<void> Reader::so_far() const {
  if (mistake_) return *mistake_;
  return {};
}

Result<void> Reader::finish() {
  if (unknown_ == Unknown::kRefused) {
    const auto end = known_.begin() + asked_for_;
    for (const RawField& field : object_.fields) {
      if (std::find(known_.begin(), end, field.name) == end) fail(field.name, "is not known here");
    }
  }
  return so_far();
}

}  // namespace sluice::json
