#include "sluice/json/peek.h"

#include <simdjson.h>

#include <algorithm>
#include <string>

namespace sluice::json {
namespace {

namespace ondemand = simdjson::ondemand;

// A parser that has seen a larger document is thrown away after it: its index takes four bytes for
// each of the document's.
constexpr size_t kKeptCapacity = 1 << 20;

Error bad(std::string_view what, size_t offset) {
  return Error(ErrorCode::kInvalidArgument,
               "JSON: " + std::string(what) + " at byte " + std::to_string(offset),
               ErrorOrigin::kCaller);
}

ByteView trimmed(ByteView text) {
  const size_t end = text.find_last_not_of(" \n\r\t");
  return text.substr(0, end == ByteView::npos ? 0 : end + 1);
}

// Walks one document. Offsets are counted from the parsed buffer, which holds the same bytes as the
// document.
class Walk {
 public:
  // `list` as in Peeker::fields().
  Walk(ByteView document, const char* parsed, size_t list)
      : document_(document), parsed_(parsed), wanted_list_(list) {}

  Result<Peeker::Fields> run(ondemand::document& root, std::span<const std::string_view> names) {
    Peeker::Fields found(names.size());
    ondemand::object object;
    if (const auto error = root.get_object().get(object)) return failure(root, error);
    for (auto next : object) {
      ondemand::field field;
      if (const auto error = std::move(next).get(field)) return failure(root, error);
      const auto name = names_index(field, names);
      if (!name) continue;
      if (found[*name]) {
        return bad("field '" + std::string(names[*name]) + "' stands here twice,",
                   offset(field.key().raw()) - 1);
      }
      SLUICE_TRY(found[*name], peek(root, field));
      const Raw& value = found[*name]->value;
      const bool listed =
          wanted_list_ == Peeker::kLongest ? value.text.size() > list_size_ : *name == wanted_list_;
      if (value.is(Type::kArray) && listed) {
        list_ = *name;
        list_size_ = value.text.size();
        list_elements_.swap(elements_);
      }
    }
    const char* behind = nullptr;
    if (root.current_location().get(behind) != simdjson::OUT_OF_BOUNDS) {
      return bad("more than one value", offset(behind));
    }
    return found;
  }

  // The list among what was found, if there is one, and where its elements begin.
  std::optional<size_t> list() const {
    return list_size_ > 0 ? std::optional(list_) : std::nullopt;
  }
  std::vector<size_t> take_elements() { return std::move(list_elements_); }

 private:
  size_t offset(const char* in_parsed) const { return static_cast<size_t>(in_parsed - parsed_); }

  std::optional<size_t> names_index(ondemand::field& field,
                                    std::span<const std::string_view> names) const {
    const char* const start = field.key().raw();
    ByteView raw = document_.substr(offset(start));
    // The name ends at the first quote that is not escaped; simdjson has seen that there is one.
    size_t size = 0;
    while (raw[size] != '"') size += raw[size] == '\\' ? 2 : 1;
    raw = raw.substr(0, size);
    std::string unescaped;
    if (raw.find('\\') != ByteView::npos) {
      const auto text = to_text(Raw{document_.substr(offset(start) - 1, size + 2), Type::kString});
      if (!text) return std::nullopt;  // a name that cannot be read is none of ours
      unescaped = *text;
      raw = unescaped;
    }
    const auto it = std::find(names.begin(), names.end(), raw);
    if (it == names.end()) return std::nullopt;
    return static_cast<size_t>(it - names.begin());
  }

  Result<Peeked> peek(ondemand::document& root, ondemand::field& field) {
    Peeked out;
    out.name_offset = offset(field.key().raw()) - 1;
    ondemand::value value = field.value();
    ondemand::json_type type;
    if (const auto error = value.type().get(type)) return failure(root, error);
    if (type == ondemand::json_type::array) return peek_array(root, value, out);
    if (type == ondemand::json_type::object) {
      ondemand::object object;
      std::string_view text;
      if (const auto error = value.get_object().get(object)) return failure(root, error);
      if (const auto error = object.raw_json().get(text)) return failure(root, error);
      text = trimmed(text);
      out.value_offset = offset(text.data());
      out.value = Raw{document_.substr(out.value_offset, text.size()), Type::kObject};
      if (out.value.text.back() != '}') return bad("an object without its end", out.value_offset);
      return out;
    }
    const ByteView token = trimmed(value.raw_json_token());
    out.value_offset = offset(token.data());
    const auto scalar = read_value(document_.substr(out.value_offset, token.size()));
    if (!scalar) return bad("a malformed value", out.value_offset);
    out.value = *scalar;
    return out;
  }

  Result<Peeked> peek_array(ondemand::document& root, ondemand::value& value, Peeked out) {
    ondemand::array array;
    const char* start = nullptr;
    if (const auto error = root.current_location().get(start)) return failure(root, error);
    if (const auto error = value.get_array().get(array)) return failure(root, error);
    elements_.clear();
    for (auto element : array) {
      if (const auto error = element.error()) return failure(root, error);
      const char* at = nullptr;
      if (const auto error = root.current_location().get(at)) return failure(root, error);
      elements_.push_back(offset(at));
    }
    out.count = elements_.size();
    const char* end = nullptr;  // the token behind the array
    if (const auto error = root.current_location().get(end)) return failure(root, error);
    out.value_offset = offset(start);
    const ByteView text =
        trimmed(document_.substr(out.value_offset, static_cast<size_t>(end - start)));
    if (text.size() < 2 || text.front() != '[' || text.back() != ']') {
      return bad("an array without its end", out.value_offset);
    }
    out.value = Raw{text, Type::kArray};
    out.fresh = text.substr(1, text.size() - 2);
    return out;
  }

  Error failure(ondemand::document& root, simdjson::error_code error) const {
    const char* location = nullptr;
    const bool known = root.current_location().get(location) == simdjson::SUCCESS &&
                       location >= parsed_ && location <= parsed_ + document_.size();
    if (error == simdjson::INCORRECT_TYPE) return bad("the document is not an object", 0);
    return bad("malformed", known ? offset(location) : document_.size());
  }

  ByteView document_;
  const char* parsed_;
  std::vector<size_t> elements_;  // of the array that was peeked into last
  const size_t wanted_list_;
  size_t list_ = 0;
  size_t list_size_ = 0;
  std::vector<size_t> list_elements_;
};

// Where the elements of `text` begin, which is an array of which only the first level is read. Is
// in a parser's buffer.
std::optional<std::vector<size_t>> elements_of(ondemand::parser& parser, const Bytes& text) {
  ondemand::document root;
  ondemand::array array;
  if (parser.iterate(text, text.capacity()).get(root) || root.get_array().get(array)) {
    return std::nullopt;
  }
  std::vector<size_t> out;
  for (auto element : array) {
    const char* at = nullptr;
    if (element.error() || root.current_location().get(at)) return std::nullopt;
    out.push_back(static_cast<size_t>(at - text.data()));
  }
  const char* behind = nullptr;
  if (root.current_location().get(behind) != simdjson::OUT_OF_BOUNDS) return std::nullopt;
  return out;
}

ByteView trimmed_front(ByteView text) {
  return text.substr(std::min(text.find_first_not_of(" \n\r\t"), text.size()));
}

}  // namespace

struct Peeker::State {
  std::unique_ptr<ondemand::parser> parser = std::make_unique<ondemand::parser>();
  Bytes copy;
};

Peeker::Peeker() : state_(std::make_unique<State>()) {}
Peeker::~Peeker() = default;

Result<Peeker::Fields> Peeker::fields(const Document& given,
                                      std::span<const std::string_view> names, size_t list) {
  if (auto known = by_likeness(given, names)) return std::move(*known);
  const Bytes& document = given.bytes;
  const Bytes* parsed = &document;
  if (document.capacity() - document.size() < simdjson::SIMDJSON_PADDING) {
    state_->copy.reserve(document.size() + simdjson::SIMDJSON_PADDING);
    state_->copy = document;
    parsed = &state_->copy;
  }
  auto result = [&]() -> Result<Fields> {
    ondemand::document root;
    // Finds every token, and on the way checks UTF-8 and that strings end.
    const auto error = state_->parser->iterate(*parsed, parsed->capacity()).get(root);
    if (error == simdjson::UTF8_ERROR) return bad("the text is not UTF-8", 0);
    if (error == simdjson::EMPTY) return bad("the document is empty,", 0);
    if (error != simdjson::SUCCESS) return bad("malformed", document.size());
    Walk walk(document, parsed->data(), list);
    SLUICE_TRY(Fields found, walk.run(root, names));
    if (given.check == Document::Check::kAll) SLUICE_TRY_VOID(check(document, 0));
    if (given.outline != nullptr) {
      Outline& out = *given.outline;
      out.names_ = names.data();
      out.document_size_ = document.size();
      out.list_ = walk.list().value_or(names.size());
      out.elements_ = walk.take_elements();
      out.fields_.clear();
      for (const auto& field : found) {
        if (field) {
          out.fields_.emplace_back(Outline::Field{field->name_offset, field->value_offset,
                                                  field->value.text.size(), field->value.type,
                                                  field->count});
        } else {
          out.fields_.emplace_back();
        }
      }
    }
    return found;
  }();
  if (state_->parser->capacity() > kKeptCapacity) {
    state_->parser = std::make_unique<ondemand::parser>();
    state_->copy = Bytes();
  }
  return result;
}

std::optional<Peeker::Fields> Peeker::by_likeness(const Document& given,
                                                  std::span<const std::string_view> names) {
  const Outline* const old = given.like;
  if (old == nullptr || old->names_ != names.data() || old->fields_.size() != names.size() ||
      old->list_ >= names.size()) {
    return std::nullopt;
  }
  const ByteView document = given.bytes;
  const Outline::Field& list = *old->fields_[old->list_];
  const size_t open = list.value_offset;
  const size_t close = open + list.size - 1;
  // In the old document what has changed is [prefix, changed), and all of it is inside the array.
  const size_t changed = old->document_size_ - given.suffix;
  if (given.prefix <= open || changed > close || given.prefix > changed) return std::nullopt;
  const auto moved = [&](size_t offset) {
    return offset + document.size() - old->document_size_;
  };

  // The elements that changed: from the last that begins where nothing has changed yet, to the
  // first that begins where nothing changes any more. Before and behind these the two documents
  // read the same, because reading them comes to the same point.
  const std::vector<size_t>& was = old->elements_;
  const auto upper = std::upper_bound(was.begin(), was.end(), given.prefix);
  const auto first = upper == was.begin() ? upper : upper - 1;
  const auto last = std::lower_bound(upper, was.end(), changed);
  const size_t begin = upper == was.begin() ? open + 1 : *first;
  ByteView between = document.substr(begin, moved(last == was.end() ? close : *last) - begin);
  if (last != was.end() && !trimmed_front(between).empty()) {
    between = trimmed(between);
    if (between.back() != ',') return std::nullopt;
    between.remove_suffix(1);
    if (trimmed_front(between).empty()) return std::nullopt;
  } else if (last != was.end() && upper != was.begin()) {
    return std::nullopt;
  }
  Bytes& copy = state_->copy;
  copy.reserve(between.size() + 2 + simdjson::SIMDJSON_PADDING);
  copy.assign("[").append(between).append("]");
  const auto found = elements_of(*state_->parser, copy);
  // Behind a comma that stays there has to be something.
  if (!found || (found->empty() && upper != was.begin())) return std::nullopt;
  if (given.check == Document::Check::kAll && !check(copy, 1)) return std::nullopt;

  std::vector<size_t> elements(was.begin(), first);
  elements.reserve(elements.size() + found->size() + static_cast<size_t>(was.end() - last));
  for (const size_t offset : *found) elements.push_back(begin + offset - 1);
  for (auto it = last; it != was.end(); ++it) elements.push_back(moved(*it));

  Fields fields(names.size());
  std::vector<std::optional<Outline::Field>> now = old->fields_;
  for (size_t i = 0; i < now.size(); ++i) {
    if (!now[i]) continue;
    Outline::Field& field = *now[i];
    if (i == old->list_) {
      field.size = moved(field.size);
      field.count = elements.size();
    } else if (field.value_offset > open) {
      field.name_offset = moved(field.name_offset);
      field.value_offset = moved(field.value_offset);
    }
    fields[i] =
        Peeked{field.name_offset, field.value_offset,
               Raw{document.substr(field.value_offset, field.size), field.type}, field.count};
  }
  fields[old->list_]->fresh = between;
  fields[old->list_]->fresh_at = static_cast<size_t>(first - was.begin());
  if (given.outline != nullptr) {
    Outline& out = *given.outline;
    out.names_ = names.data();
    out.document_size_ = document.size();
    out.list_ = old->list_;
    out.elements_ = std::move(elements);
    out.fields_ = std::move(now);
  }
  return fields;
}

}  // namespace sluice::json
