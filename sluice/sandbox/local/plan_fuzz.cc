// Arbitrary bytes to both ends of the sandbox helper's socket. What parses comes out as it went in.
#include <cstdint>

#include "sluice/base/core/check.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {
namespace {

template <class T>
void try_message(ByteView bytes) {
  const auto value = decode<T>(bytes);
  if (value) CHECK(encode(*value) == bytes);
}

}  // namespace
}  // namespace sluice::sandbox::local

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice::sandbox::local;
  const auto message = Message::decode({reinterpret_cast<const char*>(data), size});
  if (!message) return 0;
  switch (message->kind) {
    case Message::Kind::kSetup:
      try_message<Setup>(message->body);
      break;
    case Message::Kind::kSetupDone:
      try_message<SetupDone>(message->body);
      break;
    case Message::Kind::kCreate:
      try_message<Create>(message->body);
      break;
    case Message::Kind::kCreated:
      (void)decode<Created>(message->body);  // an error that is not UTF-8 is mended: no round trip
      break;
    case Message::Kind::kDestroy:
      try_message<Destroy>(message->body);
      break;
    case Message::Kind::kGone:
      try_message<Gone>(message->body);
      break;
    case Message::Kind::kFailed:
      break;
  }
  return 0;
}
