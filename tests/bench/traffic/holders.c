// Sockets that only exist: idle connections to the server, a crowd of processes with sockets on loopback, and a scan that nobody answers.
#include "traffic.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void wait_for_end_of_input(void) {
	char byte;
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
}

// A reset at the end leaves no port in TIME-WAIT for the next measure.
static int open_one(void) {
	struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
	int fd = dial(SOCK_STREAM);
	if (fd < 0)
		return 0;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	if (trip(fd, KEEP))
		return 1;
	close(fd);
	return 0;
}

void hold(long count) {
	uint64_t start = now_ns(), deadline = in_seconds(40), patience = in_seconds(4);
	long open = 0, in_a_row = 0, refused = 0;
	int cause = 0;
	while (open < count && in_a_row < 50 && now_ns() < deadline && now_ns() < patience) {
		if (open_one()) {
			open++;
			patience = in_seconds(4);
			in_a_row = 0;
		} else {
			cause = errno;
			in_a_row++;
			refused++;
		}
	}
	printf("{\"open\": %ld, \"refused\": %ld, \"seconds\": %.2f, \"cause\": \"%s\"}\n", open, refused, (double)(now_ns() - start) / 1e9,
	       open == count ? "" : cause ? strerror(cause) : "40 s were over");
	wait_for_end_of_input();
}

// One process of the crowd: a listener and pairs of connected sockets.
static void crowd_member(int pairs, int ready) {
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 64) || getsockname(listener, (struct sockaddr *)&address, &length))
		fail("crowd");
	for (int i = 0; i < pairs; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0 || connect(fd, (struct sockaddr *)&address, length) || accept(listener, NULL, NULL) < 0)
			fail("crowd: a pair");
	}
	if (write(ready, "x", 1) != 1)
		fail("crowd: ready");
	for (;;)
		pause();
}

void crowd(int processes, int sockets) {
	int pairs = sockets / processes / 2, ends[2], ready = 0;
	char byte;
	if (pipe(ends))
		fail("pipe");
	for (int i = 0; i < processes; i++) {
		pid_t child = fork();
		if (child < 0)
			fail("fork");
		if (!child)
			crowd_member(pairs, ends[1]);
	}
	close(ends[1]);
	while (ready < processes && read(ends[0], &byte, 1) == 1)
		ready++;
	printf("{\"processes\": %d, \"sockets\": %d}\n", ready, ready * (pairs * 2 + 1));
	wait_for_end_of_input();
}

// Begins connections to one port after another as fast as it can, and keeps the last of them; the peer is to be silent.
void scan(void) {
	enum { KEPT = 4000, IN_A_ROW = 50 };
	static int kept[KEPT];
	struct pollfd input = { .fd = 0, .events = POLLIN };
	struct sockaddr_in *v4 = (struct sockaddr_in *)&peer;
	uint64_t start = now_ns(), deadline = in_seconds(60);
	unsigned long begun = 0, refused = 0;
	memset(kept, -1, sizeof kept);
	puts("{\"scanning\": true}");
	fflush(stdout);
	while (now_ns() < deadline && !poll(&input, 1, 0)) {
		for (int i = 0; i < IN_A_ROW; i++, begun++) {
			int *place = &kept[begun % KEPT];
			if (*place >= 0)
				close(*place);
			// Both families have the port in the same place.
			v4->sin_port = htons((uint16_t)(1 + begun % 65535));
			*place = dial(SOCK_STREAM | SOCK_NONBLOCK);
			refused += *place < 0;
		}
	}
	fprintf(stderr, "{\"begun\": %lu, \"refused\": %lu, \"seconds\": %.2f}\n", begun, refused, (double)(now_ns() - start) / 1e9);
}
