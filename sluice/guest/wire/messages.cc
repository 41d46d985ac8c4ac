#include "sluice/guest/wire/messages.h"

#include "sluice/base/core/check.h"

namespace sluice::guest::wire {
namespace {

// What an Open frame begins with: the verb and the size of the whole request.
constexpr size_t kHeadBytes = 5;
constexpr size_t kFirstPart = kMaxPayload - kHeadBytes;

struct RequestHead {
  static constexpr char kName[] = "request";
  Verb verb = Verb::kExec;
  uint32_t size = 0;

  static void fields(auto& v, auto& m) {
    v.enumerator(m.verb, kLastVerb);
    v.numbers(m.size);
    if (m.size > kMaxRequest) v.fail("its size is over the limit");
  }
};

}  // namespace

Result<std::vector<Bytes>> split(const Request& request) {
  if (request.body.size() > kMaxRequest) {
    return Error(ErrorCode::kTooLarge,
                 "the request holds " + std::to_string(request.body.size()) +
                     " bytes of arguments and environment; at most " + std::to_string(kMaxRequest) +
                     " are possible: pass large input through stdin or a file");
  }
  const RequestHead head{request.verb, static_cast<uint32_t>(request.body.size())};
  std::vector<Bytes> parts;
  parts.push_back(encode(head).append(request.body, 0, kFirstPart));
  for (size_t at = kFirstPart; at < request.body.size(); at += kMaxPayload) {
    parts.push_back(request.body.substr(at, kMaxPayload));
  }
  return parts;
}

Result<std::optional<Request>> Assembler::open(ByteView payload) {
  CHECK(!busy());
  SLUICE_TRY(const auto head, decode<RequestHead>(payload.substr(0, kHeadBytes)));
  request_.verb = head.verb;
  missing_ = head.size;
  request_.body.clear();
  return take(payload.substr(kHeadBytes));
}

Result<std::optional<Request>> Assembler::more(ByteView payload) {
  if (!busy() || payload.empty()) {
    return Error(ErrorCode::kProtocol, "guest link: a part of a request without its beginning");
  }
  return take(payload);
}

Result<std::optional<Request>> Assembler::take(ByteView part) {
  if (part.size() > missing_) {
    return Error(ErrorCode::kProtocol, "guest link: a request is longer than it said");
  }
  request_.body.append(part);
  missing_ -= part.size();
  if (missing_ > 0) return std::optional<Request>();
  return std::optional<Request>(std::move(request_));
}

Bytes encode_list_entry(const FileStat& entry) {
  const Bytes body = encode(entry);
  Writer out;
  out.numbers(static_cast<uint16_t>(body.size()));
  return out.take().append(body);
}

Result<void> ListDecoder::feed(ByteView piece) {
  buffer_.append(piece);
  ByteView rest = buffer_;
  while (rest.size() >= 2) {
    uint16_t size = 0;
    Reader(rest).numbers(size);
    if (rest.size() < 2u + size) break;
    if (entries_.size() == max_entries_) {
      return Error(ErrorCode::kProtocol, "guest link: a list has more entries than asked for");
    }
    SLUICE_TRY(FileStat entry, decode<FileStat>(rest.substr(2, size)));
    entries_.push_back(std::move(entry));
    rest.remove_prefix(2u + size);
  }
  buffer_.erase(0, buffer_.size() - rest.size());
  return {};
}

Result<std::vector<FileStat>> ListDecoder::finish() {
  if (!buffer_.empty()) {
    return Error(ErrorCode::kProtocol, "guest link: a list ends within an entry");
  }
  return std::move(entries_);
}

}  // namespace sluice::guest::wire
