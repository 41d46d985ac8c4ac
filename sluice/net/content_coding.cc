#include "sluice/net/content_coding.h"

#include <archive.h>
#include <archive_entry.h>
#include <brotli/decode.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "sluice/net/http.h"

namespace sluice::net {
namespace {

constexpr size_t kStep = 64 * 1024;  // the first of what is inflated
constexpr size_t kPadding = 64;      // behind a body, for parsers that read ahead

bool is_gzip(std::string_view coding) {
  return equal_ignoring_case(coding, "gzip") || equal_ignoring_case(coding, "x-gzip");
}
bool is_zstd(std::string_view coding) {
  return equal_ignoring_case(coding, "zstd");
}

// Inflates bytes, piece by piece.
class Inflater {
 public:
  virtual ~Inflater() = default;
  // How many bytes came, 0 at the end; nothing if what was given cannot be read.
  virtual std::optional<size_t> read(char* into, size_t size) = 0;
};

// By libarchive, of which only the filter is used.
class ArchiveInflater final : public Inflater {
 public:
  ArchiveInflater(int filter, ByteView coded) {
    archive* const a = archive_.get();
    archive_entry* entry = nullptr;
    // This one, and once: it would look by itself what there is to be taken off, and go on inside.
    ok_ = ::archive_read_append_filter(a, filter) == ARCHIVE_OK &&
          ::archive_read_support_format_raw(a) == ARCHIVE_OK &&
          ::archive_read_open_memory(a, coded.data(), coded.size()) == ARCHIVE_OK &&
          ::archive_read_next_header(a, &entry) == ARCHIVE_OK;
  }
  std::optional<size_t> read(char* into, size_t size) override {
    const auto n = ok_ ? ::archive_read_data(archive_.get(), into, size) : -1;
    return n < 0 ? std::nullopt : std::optional(static_cast<size_t>(n));
  }

 private:
  const std::unique_ptr<archive, int (*)(archive*)> archive_{::archive_read_new(),
                                                             ::archive_read_free};
  bool ok_ = false;
};

class BrotliInflater final : public Inflater {
 public:
  explicit BrotliInflater(ByteView coded) : left_(coded) {}

  std::optional<size_t> read(char* into, size_t size) override {
    size_t in = left_.size(), out = size;
    const auto* next = reinterpret_cast<const uint8_t*>(left_.data());
    auto* to = reinterpret_cast<uint8_t*>(into);
    const auto result =
        ::BrotliDecoderDecompressStream(decoder_.get(), &in, &next, &out, &to, nullptr);
    left_.remove_prefix(left_.size() - in);
    const bool over = result == BROTLI_DECODER_RESULT_SUCCESS && left_.empty();
    const bool more = result == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT;
    return over || more ? std::optional(size - out) : std::nullopt;
  }

 private:
  ByteView left_;
  const std::unique_ptr<BrotliDecoderState, void (*)(BrotliDecoderState*)> decoder_{
      ::BrotliDecoderCreateInstance(nullptr, nullptr, nullptr), ::BrotliDecoderDestroyInstance};
};

std::unique_ptr<Inflater> inflater_of(std::string_view coding, ByteView coded) {
  if (is_gzip(coding)) return std::make_unique<ArchiveInflater>(ARCHIVE_FILTER_GZIP, coded);
  if (is_zstd(coding)) return std::make_unique<ArchiveInflater>(ARCHIVE_FILTER_ZSTD, coded);
  return std::make_unique<BrotliInflater>(coded);
}

}  // namespace

bool is_content_coding(std::string_view name) {
  return is_gzip(name) || is_zstd(name) || equal_ignoring_case(name, "br");
}

Result<Bytes> decode_content(std::string_view coding, ByteView coded, size_t max) {
  const auto inflater = inflater_of(coding, coded);
  Bytes out;
  size_t have = 0;
  for (;;) {
    if (have > max) {
      return Error(ErrorCode::kTooLarge, fmt::format("the body is over {} bytes inflated", max),
                   ErrorOrigin::kCaller);
    }
    // One byte more than may come, to see whether it does.
    if (have == out.size()) resize_unfilled(out, std::min(max + 1, std::max(kStep, 2 * have)));
    const auto n = inflater->read(out.data() + have, out.size() - have);
    if (!n || (*n == 0 && have == 0)) {
      return Error(ErrorCode::kInvalidArgument,
                   "the body is empty, or not whole and well-formed in its Content-Encoding",
                   ErrorOrigin::kCaller);
    }
    if (*n == 0) break;
    have += *n;
  }
  // It may be kept for long, and takes no more than it needs.
  Bytes body;
  body.reserve(have + kPadding);
  body.append(out, 0, have);
  return body;
}

}  // namespace sluice::net
