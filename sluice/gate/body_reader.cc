#include "sluice/gate/body_reader.h"

#include <functional>
#include <utility>

#include "sluice/net/content_coding.h"

namespace sluice::gate {

net::awaitable<BodyReader::Held> BodyReader::read(std::vector<llm::Body> bodies, size_t max) {
  const auto held = std::make_shared<Held>();
  std::function<void()> work = [held, max, bodies = std::move(bodies)] {
    size_t size = 0;
    for (const llm::Body& body : bodies) {
      if (size > max) return;
      auto bytes = body.bytes();
      if (!bytes) continue;
      size += (*bytes)->size();
      held->push_back(std::move(*bytes));
    }
  };
  co_await pool_.run(std::move(work));
  co_return std::move(*held);
}

net::awaitable<Result<Bytes>> BodyReader::inflate(std::string coding, Bytes coded, size_t max) {
  const auto body = std::make_shared<Result<Bytes>>(std::move(coded));
  std::function<void()> work = [body, max, coding = std::move(coding)] {
    *body = net::decode_content(coding, **body, max);
  };
  co_await inflating_.run(std::move(work));
  co_return std::move(*body);
}

}  // namespace sluice::gate
