#include "sluice/llm/rewrite.h"

#include "sluice/llm/dialect.h"

namespace sluice::llm {

Result<std::optional<json::Raw>> Changes::find(std::string_view name) {
  const std::array names{name};
  SLUICE_TRY(const auto found, peeker_.fields(body_, names));
  if (!found[0] || found[0]->value.is(json::Type::kNull)) return std::optional<json::Raw>();
  return std::optional(found[0]->value);
}

Result<json::Object> Changes::object(std::string_view name) {
  SLUICE_TRY(const auto found, find(name));
  if (!found) return json::Object();
  SLUICE_TRY(json::Value value, json::parse(found->text));
  if (!value.is_object()) {
    return Error(ErrorCode::kInvalidArgument, std::string(name) + ": must be an object",
                 ErrorOrigin::kAgent);
  }
  return std::move(value.as_object());
}

void Changes::set(std::string_view name, std::string json) {
  values_.push_back(std::move(json));
  edits_.push_back({name, values_.back()});
}
void Changes::set(std::string_view name, const json::Object& object) {
  set(name, json::serialize(json::Value(object)));
}

Result<void> Changes::cap(std::initializer_list<std::string_view> names,
                          std::optional<int64_t> most) {
  if (!most) return {};
  bool named = false;
  for (const std::string_view name : names) {
    SLUICE_TRY(const auto found, find(name));
    if (!found) continue;
    named = true;
    const auto asked = json::to_integer(*found);
    if (!asked || *asked > *most) set(name, std::to_string(*most));
  }
  if (!named) set(*names.begin(), std::to_string(*most));
  return {};
}

Result<Bytes> Changes::apply() {
  if (edits_.empty()) return body_;
  return json::splice(peeker_, body_, edits_);
}

Result<Bytes> rewritten(json::Peeker& peeker, Dialect dialect, const Bytes& body,
                        const Rewrite& rewrite) {
  if (rewrite.changes_nothing()) return body;
  Changes changes(peeker, body);
  SLUICE_TRY_VOID(find_codec(dialect)->rewrite(changes, rewrite));
  return changes.apply();
}

}  // namespace sluice::llm
