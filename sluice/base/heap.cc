#include "sluice/base/heap.h"

#ifdef SLUICE_MIMALLOC
#include <mimalloc.h>
#endif

namespace sluice {

void keep_heap() {
#ifdef SLUICE_MIMALLOC
  mi_option_set(mi_option_decommit_delay, 10'000);          // ms, of pages
  mi_option_set(mi_option_segment_decommit_delay, 20'000);  // ms, of segments
#endif
}

}  // namespace sluice
