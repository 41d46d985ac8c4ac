#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

bool is_no_overlay(const Error& error) {
  return error.message.find(kNoOverlay) != std::string::npos;
}

Bytes Message::encode() const {
  return Bytes(1, static_cast<char>(kind)) + body;
}
Result<Message> Message::decode(ByteView bytes) {
  guest::wire::Reader in(bytes.substr(0, 1));
  Message message;
  in.enumerator(message.kind, Kind::kFailed);
  SLUICE_TRY_VOID(in.finish("message of the sandbox helper"));
  message.body = Bytes(bytes.substr(1));
  return message;
}

}  // namespace sluice::sandbox::local
