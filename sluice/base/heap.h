// The heap of a server: what every call takes and gives back, again and again.
#pragma once

namespace sluice {

// To be called once, first in main(), by a program that links sluice_heap. That library brings
// mimalloc in place of the C library's malloc; not in sanitizer builds, which have their own.
//
// It also makes the heap slower to give memory back to the kernel: bodies of 128 KiB and more come
// and go with every call, and would otherwise cost as many page faults as they have pages. What is
// free for some ten seconds is given back, as the heap is used on.
void keep_heap();

}  // namespace sluice
