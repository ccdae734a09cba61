// Programs that several processors must get right, as one static Linux program (tests/boot/smp_test.py runs it in the guest and, as the
// check of the checks, on the bare processor). Each part prints lines "NAME ..." and returns the number of things that were wrong, having
// printed "FAIL ..." for each.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { MAX_THREADS = 16, PAGE = 4096 };

// Prints "FAIL " and the text, and counts. Any thread.
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
unsigned failures(void);

// Runs fn(arg, n) in n threads, thread i pinned to processor i modulo their number if `pin`; returns when all have ended.
void threads_run(unsigned n, bool pin, void (*fn)(void *arg, unsigned i), void *arg);
unsigned processors(void);
uint64_t now_ms(void);

// A meeting of n threads that spins, and gives the processor away when that takes long: there may be fewer processors than threads.
struct barrier { unsigned n, here, round; };
void barrier_wait(struct barrier *b);
// One turn of a loop that waits for another thread.
void relax(unsigned turn);
// What a thread has to do before it runs code that another has written (SDM 3A 8.1.3).
void serialise(void);

// What is given a time does everything at least once, however slow the machine: a part that never ends is the sign of a livelock.
void litmus(unsigned long ms);      // all tests together
void atomics(unsigned long rounds);
void code(unsigned long ms);        // per part
void shootdown(unsigned long ms);   // per part
void stress(unsigned long ms);
// What stress executes: checks that it got its argument.
int stress_child(const char *arg);
