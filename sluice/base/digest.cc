// SHA256_CTX can be copied as it is. What OpenSSL would rather have used takes memory for each
// copy.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "sluice/base/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>

#include "sluice/base/core/check.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // by what the processor has, not the compiler's target
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

namespace sluice {

std::string Digest::hex() const {
  std::array<char, 16> raw;
  for (size_t i = 0; i < 8; ++i) {
    raw[i] = static_cast<char>(high >> (56 - 8 * i));
    raw[i + 8] = static_cast<char>(low >> (56 - 8 * i));
  }
  return to_hex({raw.data(), raw.size()});
}

Digest xxh3_128(ByteView bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

namespace {

Bytes sha256(ByteView bytes) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(EVP_Digest(bytes.data(), bytes.size(), out, &size, EVP_sha256(), nullptr) == 1);
  return {reinterpret_cast<const char*>(out), size};
}

}  // namespace

std::string sha256_hex(ByteView bytes) {
  return to_hex(sha256(bytes));
}

Sha256::Sha256()
    : context_(EVP_MD_CTX_new(), [](void* c) { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(c)); }) {
  auto* context = static_cast<EVP_MD_CTX*>(context_.get());
  CHECK(context != nullptr && EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1);
}

void Sha256::add(ByteView bytes) {
  CHECK(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), bytes.data(), bytes.size()) ==
        1);
}

std::string Sha256::hex() {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_.get()), out, &size) == 1);
  return to_hex({reinterpret_cast<const char*>(out), size});
}

// The hash's state behind the key's inner and outer block.
struct HmacSha256::State {
  SHA256_CTX inner, outer;
};

HmacSha256::HmacSha256(ByteView key) {
  std::array<unsigned char, SHA256_CBLOCK> block{};
  const Bytes hashed = key.size() > block.size() ? sha256(key) : Bytes();
  const ByteView short_key = hashed.empty() ? key : ByteView(hashed);
  std::copy(short_key.begin(), short_key.end(), block.begin());
  const auto start = [&block](unsigned char pad) {
    std::array<unsigned char, SHA256_CBLOCK> padded;
    for (size_t i = 0; i < block.size(); ++i) padded[i] = block[i] ^ pad;
    SHA256_CTX context;
    SHA256_Init(&context);
    SHA256_Update(&context, padded.data(), padded.size());
    OPENSSL_cleanse(padded.data(), padded.size());
    return context;
  };
  state_ = std::make_shared<const State>(State{start(0x36), start(0x5C)});
  OPENSSL_cleanse(block.data(), block.size());
}

HmacSha256::Signature HmacSha256::sign(ByteView message) const {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> out;
  SHA256_CTX context = state_->inner;
  SHA256_Update(&context, message.data(), message.size());
  SHA256_Final(out.data(), &context);
  context = state_->outer;
  SHA256_Update(&context, out.data(), out.size());
  SHA256_Final(out.data(), &context);
  Signature signature;
  std::copy(out.begin(), out.end(), signature.begin());
  return signature;
}

Bytes hmac_sha256(ByteView key, ByteView message) {
  const HmacSha256::Signature signature = HmacSha256(key).sign(message);
  return {signature.data(), signature.size()};
}

bool equal_in_constant_time(ByteView a, ByteView b) {
  // The lengths are no secret: keys have a fixed one.
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace sluice
