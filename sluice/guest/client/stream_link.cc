#include "sluice/guest/client/link.h"

namespace sluice::guest {
namespace {

class StreamLink final : public Link {
 public:
  explicit StreamLink(std::unique_ptr<net::Stream> stream) : stream_(std::move(stream)) {}

  bool passes_descriptors() const override { return false; }
  awaitable<Result<size_t>> read_some(std::span<std::byte> into, std::vector<Fd>*) override {
    return stream_->read_some(into);
  }
  awaitable<Result<void>> write_all(ByteView bytes) override {
    return stream_->write_all(as_byte_span(bytes));
  }
  void close() override { stream_->close(); }

 private:
  const std::unique_ptr<net::Stream> stream_;
};

}  // namespace

std::unique_ptr<Link> make_stream_link(std::unique_ptr<net::Stream> stream) {
  return std::make_unique<StreamLink>(std::move(stream));
}

}  // namespace sluice::guest
