#include "sluice/llm/own_ids.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "sluice/json/text.h"
#include "sluice/llm/dialect.h"

namespace sluice::llm {

void OwnIds::add(std::string sent, std::string own) {
  const std::lock_guard lock(mutex_);
  own_.insert_or_assign(std::move(sent), std::move(own));
}

std::optional<Bytes> OwnIds::put_back(const Codec& codec, ByteView body) const {
  const auto paths = codec.tool_id_paths();
  std::vector<ByteView> ids;  // without their quotes
  const bool read = json::visit_strings(body, [&](std::string_view path, const json::Raw& text) {
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) return;
    ids.push_back(text.text.substr(1, text.text.size() - 2));
  });
  if (!read) return std::nullopt;
  Bytes out;
  const char* copied = body.data();
  const auto copy_to = [&](const char* end) {
    out.append(std::exchange(copied, end), end);
  };
  const std::lock_guard lock(mutex_);
  for (const ByteView id : ids) {
    const auto own = own_.find(id);  // what was sent needs no escapes
    if (own == own_.end()) continue;
    if (out.empty()) out.reserve(body.size());
    copy_to(id.data() - 1);
    json::append_string(out, own->second);
    copied = id.data() + id.size() + 1;
  }
  if (out.empty()) return std::nullopt;
  copy_to(body.data() + body.size());
  return out;
}

}  // namespace sluice::llm
