// Which dialects there are, what they do alike, and what of a call depends on its own.
#include <algorithm>

#include "sluice/llm/codecs.h"
#include "sluice/llm/own_ids.h"
#include "sluice/llm/wire.h"

namespace sluice::llm {
namespace {

// A dialect without a case below, or without a place in the list, does not compile.
template <Dialect kDialect>
const Codec* listed(const Codec& codec) {
  static_assert(std::find(kDialects.begin(), kDialects.end(), kDialect) != kDialects.end());
  return &codec;
}

}  // namespace

const Codec* find_codec(Dialect dialect) {
  switch (dialect) {
    case Dialect::kChat:
      return listed<Dialect::kChat>(chat_codec());
    case Dialect::kResponses:
      return listed<Dialect::kResponses>(responses_codec());
    case Dialect::kMessages:
      return listed<Dialect::kMessages>(messages_codec());
    case Dialect::kGemini:
      return listed<Dialect::kGemini>(gemini_codec());
  }
  return nullptr;
}

std::string_view to_string(Dialect dialect) {
  const Codec* const codec = find_codec(dialect);
  return codec == nullptr ? "unknown" : codec->name();
}

std::optional<Dialect> dialect_from(std::string_view name) {
  return from_string(kDialects, name);
}

std::string dialect_names() {
  std::string out;
  for (const Dialect dialect : kDialects) {
    if (!out.empty()) out.append(", ");
    out.append(to_string(dialect));
  }
  return out;
}

void Codec::join(Message& echo, Message next) const {
  wire::join(echo, std::move(next));
}

std::string Codec::model(std::string_view name) const {
  return wire::object([&](wire::Members& model) { describe(model, name); });
}

void Codec::append_models(Bytes& out, std::span<const std::string> names) const {
  wire::append_list(out, names, [&](Bytes& to, const std::string& name) {
    wire::Members model(to);
    describe(model, name);
  });
}

Result<const Request*> Call::request() const {
  std::call_once(parsed_, [this] { request_ = std::make_unique<Result<Request>>(parse()); });
  if (!*request_) return request_->error();
  return &request_->value();
}

Result<std::shared_ptr<const Bytes>> Call::asked() const {
  std::shared_ptr<const Bytes> bytes = changed_body;
  if (!bytes) {
    SLUICE_TRY(bytes, body.bytes());
  }
  const Codec* const codec = own_ids ? find_codec(dialect) : nullptr;
  if (codec == nullptr) return bytes;
  auto own = own_ids->put_back(*codec, *bytes);
  return own ? std::make_shared<const Bytes>(std::move(*own)) : bytes;
}

Result<Request> Call::parse() const {
  const Codec* const codec = find_codec(dialect);
  if (codec == nullptr) {
    return Error(ErrorCode::kUnsupported,
                 "the call's body cannot be read as " + std::string(to_string(dialect)));
  }
  SLUICE_TRY(const auto bytes, asked());
  SLUICE_TRY(Request request, codec->parse(*bytes));
  // Where the URL names the model, the body does not.
  if (request.model.empty()) request.model = model;
  return request;
}

}  // namespace sluice::llm
