/* Preloaded into the gateway: counts the bytes that memcpy and memmove move in pieces of at least 4 KiB, and writes the total
 * as text into the file that COPIES_FILE names, at every SIGUSR2. What the kernel copies at recv and send is not in it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic unsigned long long total;
static void* (*real_memcpy)(void*, const void*, size_t);
static void* (*real_memmove)(void*, const void*, size_t);

static void report(int number) {
    (void)number;
    char text[32];
    int length = snprintf(text, sizeof text, "%llu\n", total);
    int file = open(getenv("COPIES_FILE"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file >= 0) { if (write(file, text, (size_t)length) < 0) _exit(99); close(file); }
}

__attribute__((constructor)) static void begin(void) {
    real_memcpy = dlsym(RTLD_NEXT, "memcpy");
    real_memmove = dlsym(RTLD_NEXT, "memmove");
    if (getenv("COPIES_FILE")) signal(SIGUSR2, report);
}

void* memcpy(void* to, const void* from, size_t n) {
    if (!real_memcpy) return __builtin_memmove(to, from, n);
    if (n >= 4096) total += n;
    return real_memcpy(to, from, n);
}

void* memmove(void* to, const void* from, size_t n) {
    if (!real_memmove) {
        char* d = to;
        const char* s = from;
        if (d < s) while (n--) *d++ = *s++;
        else while (n--) d[n] = s[n];
        return to;
    }
    if (n >= 4096) total += n;
    return real_memmove(to, from, n);
}
