// Clock, dialling and the store of measured times.
#include "traffic.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct sockaddr_storage peer;
socklen_t peer_length;

void fail(const char *what) {
	perror(what);
	exit(1);
}

uint64_t now_ns(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t in_seconds(double seconds) {
	return now_ns() + (uint64_t)(seconds * 1e9);
}

void nap_us(long microseconds) {
	struct timespec time = { .tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000 };
	nanosleep(&time, NULL);
}

int set_option(int fd, int level, int name, int value) {
	return setsockopt(fd, level, name, &value, sizeof value);
}

void set_timeout(int fd, int milliseconds) {
	struct timeval limit = { .tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000 };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

void name_peer(const char *address, const char *port, int offset) {
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found;
	char number[16];
	snprintf(number, sizeof number, "%d", atoi(port) + offset);
	if (getaddrinfo(address, number, &hints, &found)) {
		fprintf(stderr, "traffic: %s port %s is no address\n", address, port);
		exit(2);
	}
	memcpy(&peer, found->ai_addr, found->ai_addrlen);
	peer_length = found->ai_addrlen;
	freeaddrinfo(found);
}

int dial(int type) {
	int fd = socket(peer.ss_family, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (!(type & SOCK_DGRAM)) {
		set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		// A namespace made by a router may have another default than the lab's.
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	}
	if (!(type & SOCK_NONBLOCK))
		set_timeout(fd, 3000);
	if (connect(fd, (struct sockaddr *)&peer, peer_length) && errno != EINPROGRESS) {
		int cause = errno;
		close(fd);
		errno = cause;
		return -1;
	}
	return fd;
}

int trip(int fd, char byte) {
	return write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1;
}

void note(struct times *times, uint64_t start) {
	if (times->count == times->room) {
		times->room = times->room ? times->room * 2 : 65536;
		times->values = realloc(times->values, times->room * sizeof *times->values);
		if (!times->values)
			fail("realloc");
	}
	times->values[times->count++] = (uint32_t)((now_ns() - start) / 100);
}

static int ascending(const void *left, const void *right) {
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
	return (a > b) - (a < b);
}

static double part(const struct times *times, size_t hundredths) {
	return times->count ? times->values[times->count * hundredths / 100] / 10.0 : 0;
}

void report(struct times *times, uint64_t begin) {
	double seconds = (double)(now_ns() - begin) / 1e9;
	if (times->count)
		qsort(times->values, times->count, sizeof *times->values, ascending);
	printf("{\"count\": %zu, \"rate\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"errors\": %zu}\n", times->count,
	       (double)times->count / seconds, part(times, 50), part(times, 99), times->errors);
}
