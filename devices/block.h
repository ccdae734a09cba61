// Disks, as the guest's devices see what the platform keeps them on. One of the contracts between devices/ and the platform, beside
// kernel/plat.h: hosted/block.c (a file), kernel/ramdisk.c (memory) implement it.
//
// A backend does requests over byte ranges in any order and several at a time; a flush covers the writes that were done before it was
// submitted. Two ways to ask. submit() returns at once, and done() is called later, with the BQL held: in interrupt context on core 0, or
// within submit() itself by a backend that never waits (memory). run() does the request on the calling thread, which may wait for as
// long as a disk takes: for threads that are no vCPU's and hold no lock (a data plane).
//
// A backend with poll() was opened for a data plane whose thread must not wait: the disk is that thread's alone, or, while the thread
// stands still, whoever made it stand. submit() and drain() take no lock then, and done() is called from within submit(), drain() and
// poll() only.
//
// The caller has checked that offset and len are multiples of 512 and within size, and that nothing but reads and flushes go to a
// read-only disk. The memory in seg must stay where it is until done().
#pragma once

#include "kernel/base/types.h"

enum { BLOCK_SECTOR = 512 };
enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };
enum block_result { BLOCK_OK, BLOCK_FAILED, BLOCK_UNSUPPORTED };

struct block_seg { void *base; size_t len; };       // host memory

struct block_request {
    enum block_op op;
    bool fua;                        // done only when it is on stable storage (writes of all kinds)
    bool unmap;                      // BLOCK_WRITE_ZEROES: giving the space back is welcome
    u64 offset, len;                 // bytes; BLOCK_FLUSH: unused
    struct block_seg *seg;           // BLOCK_READ, BLOCK_WRITE: nseg pieces of together len bytes
    unsigned nseg;
    enum block_result result;        // valid in done()
    void (*done)(struct block_request *r);
    struct block_request *next;      // the backend's while the request is its
};

struct block {
    const struct block_ops *ops;
    const char *name;                // for messages: the file
    u64 size;                        // bytes, a multiple of 512
    u32 physical;                    // bytes that the storage below writes at once (a power of two, 512 or more); smaller writes are slow
    bool read_only;
    bool write_through;              // every write is on stable storage when it is done: the guest's first setting of the write cache
};

struct block_ops {
    // BQL held; interrupt context allowed. With poll(): whose the disk is.
    void (*submit)(struct block *b, struct block_request *r);
    // Returns when every request submitted before has been done()ne. As submit().
    void (*drain)(struct block *b);
    // Does r now and returns its result; done() is not called. Any thread, no lock held, may wait.
    enum block_result (*run)(struct block *b, struct block_request *r);
    // Optional. done()s what has ended, without waiting. True: requests are under way, and only the next call will tell. As submit().
    bool (*poll)(struct block *b);
};
