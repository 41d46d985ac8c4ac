// Hostile bodies of the messages dialect through everything that reads them.
#include "sluice/llm/codecs.h"
#include "sluice/llm/fuzz_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::llm::fuzz::run(sluice::llm::messages_codec(), {}, data, size);
  return 0;
}
