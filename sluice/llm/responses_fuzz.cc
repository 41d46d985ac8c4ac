// Hostile bodies of the responses dialect through everything that reads them.
#include "sluice/llm/codecs.h"
#include "sluice/llm/fuzz_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::llm::fuzz::run(sluice::llm::responses_codec(), {}, data, size);
  return 0;
}
