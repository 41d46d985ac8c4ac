#include "sluice/guest/wire/sequence.h"

namespace sluice::guest::wire {

void Outgoing::append(Bytes& out, FrameType type, uint32_t stream, ByteView payload) {
  if (on_link(type)) {
    append_frame(out, type, stream, 0, payload);
    return;
  }
  const size_t before = out.size();
  append_frame(out, type, stream, ++last_, payload);
  if (keep_ == Keep::kNothing) {
    acknowledged_ = last_;
    return;
  }
  kept_.push_back(out.substr(before));
  kept_bytes_ += kept_.back().size();
}

Result<void> Outgoing::acknowledged(uint64_t seq) {
  if (seq > last_) {
    return Error(ErrorCode::kProtocol, "guest link: a frame was acknowledged that was never sent");
  }
  if (keep_ == Keep::kNothing) return {};
  if (seq < acknowledged_) {
    return Error(ErrorCode::kProtocol, "guest link: acknowledgements went backwards");
  }
  for (; acknowledged_ < seq; ++acknowledged_) {
    kept_bytes_ -= kept_.front().size();
    kept_.pop_front();
  }
  return {};
}

Result<Bytes> Outgoing::resend_after(uint64_t received) {
  if (received > last_) {
    return Error(ErrorCode::kProtocol, "guest link: the peer has frames that were never sent");
  }
  if (received < acknowledged_) {
    return Error(ErrorCode::kFailedPrecondition,
                 "guest link: cannot resume, the missing frames are no longer kept");
  }
  SLUICE_TRY_VOID(acknowledged(received));
  Bytes out;
  for (const Bytes& frame : kept_) out.append(frame);
  return out;
}

Result<Incoming::Verdict> Incoming::accept(const Frame& frame) {
  if (on_link(frame.type)) return Verdict::kNew;
  if (frame.seq <= received_) return Verdict::kDuplicate;
  if (frame.seq != received_ + 1) {
    return Error(ErrorCode::kProtocol, "guest link: a frame is missing");
  }
  received_ = frame.seq;
  ++frames_;
  bytes_ += static_cast<uint32_t>(kHeaderBytes + frame.payload.size());
  return Verdict::kNew;
}

uint64_t Incoming::acknowledgement_due() {
  if (frames_ < kAckEveryFrames && bytes_ < kAckEveryBytes) return 0;
  frames_ = 0;
  bytes_ = 0;
  return received_;
}

}  // namespace sluice::guest::wire
