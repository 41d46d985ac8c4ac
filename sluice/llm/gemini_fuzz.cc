// Hostile bodies of the gemini dialect, and hostile URLs, through everything that reads them.
#include "sluice/llm/codecs.h"
#include "sluice/llm/fuzz_codec.h"
#include "sluice/llm/gemini_url.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  // A URL of up to 64 bytes stands in front, up to a line break; without one the body is all.
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const size_t line = all.substr(0, 64).find('\n');
  llm::Target target{"m", true, llm::Framing::kEvents};
  size_t body = 0;
  if (line != std::string_view::npos) {
    const std::string_view url = all.substr(0, line);
    const size_t mark = std::min(url.find('?'), url.size());
    const auto read = llm::gemini_endpoint(url.substr(0, mark), url.substr(mark));
    CHECK(!read || url.starts_with(read->target.model));
    if (read && !read->target.model.empty()) target = read->target;
    body = line + 1;
  }
  llm::fuzz::run(llm::gemini_codec(), target, data + body, size - body);
  return 0;
}
