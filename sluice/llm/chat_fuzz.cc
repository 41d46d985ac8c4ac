// Hostile bodies of the chat dialect through everything that reads them.
#include "sluice/llm/codecs.h"
#include "sluice/llm/fuzz_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::llm::fuzz::run(sluice::llm::chat_codec(), {}, data, size);
  return 0;
}
