/* Put before a process's C library: its clock is off by what a file says, its disk is full or slow if that says so, and
 * each sync of a file only notes how much of the file would then be on the disk, and takes as long as it says: a power cut
 * leaves what was noted, and a disk that others keep busy is no fault of this run's. So clocks can be set, disks be filled,
 * and power be cut, for one process alone.
 *   CHAOS_MACHINE  file with three numbers (int64): seconds that this process's clock is ahead, milliseconds that a sync
 *                  takes, and whether its disk is full
 *   CHAOS_SYNCED   folder for {name of the file}.synced, each with a number of bytes */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct machine {
  int64_t ahead, sync_ms, full;
};

static volatile struct machine *machine(void) {
  static volatile struct machine *told;
  static struct machine usual;
  if (!told) {
    const char *path = getenv("CHAOS_MACHINE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *told, PROT_READ, MAP_SHARED, file, 0);
    told = page == MAP_FAILED ? &usual : page;
    if (file >= 0) close(file);
  }
  return told;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  static int (*plain)(clockid_t, struct timespec *);
  if (!plain) plain = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = plain(clock, at);
  if (!failed && clock == CLOCK_REALTIME) at->tv_sec += machine()->ahead;
  return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
  static int (*plain)(struct timeval *, void *);
  if (!plain) plain = dlsym(RTLD_NEXT, "gettimeofday");
  int failed = plain(at, zone);
  if (!failed) at->tv_sec += machine()->ahead;
  return failed;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}

static int synced(int file) {
  struct stat before;
  const char *folder = getenv("CHAOS_SYNCED");
  if (fstat(file, &before)) return -1;
  usleep(machine()->sync_ms * 1000);
  char link[64], path[4096] = "", note[8192], part[8300];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  if (!folder || readlink(link, path, sizeof path - 1) < 0) return 0;
  snprintf(note, sizeof note, "%s/%s.synced", folder, basename(path));
  snprintf(part, sizeof part, "%s-%d", note, gettid());
  FILE *out = fopen(part, "w");
  if (out) {
    fprintf(out, "%lld", (long long)before.st_size);
    fclose(out);
    rename(part, note); /* whole, whenever this process is killed */
  }
  return 0;
}

int fdatasync(int file) { return synced(file); }

int fsync(int file) { return synced(file); }

static int refused(int file) {
  struct stat about;
  if (!machine()->full || file <= STDERR_FILENO || fstat(file, &about) || !S_ISREG(about.st_mode)) return 0;
  errno = ENOSPC;
  return 1;
}

#define WRITING(name, parameters, arguments)                       \
  ssize_t name parameters {                                        \
    static ssize_t(*plain) parameters;                             \
    if (!plain) plain = (ssize_t(*) parameters)dlsym(RTLD_NEXT, #name); \
    return refused(file) ? -1 : plain arguments;                   \
  }
WRITING(write, (int file, const void *bytes, size_t size), (file, bytes, size))
WRITING(pwrite64, (int file, const void *bytes, size_t size, off64_t at), (file, bytes, size, at))
WRITING(writev, (int file, const struct iovec *parts, int count), (file, parts, count))
