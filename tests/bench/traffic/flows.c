// New flows one after another and many at a time, and round trips on one flow.
#include "traffic.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static const char question[31] = "lthirty-one-bytes-as-of-a-query";

// One flow at work: TCP walks through all states, UDP starts as ASKED.
struct slot {
	uint64_t start;
	int fd;
	enum { CONNECTING, ASKED, ANSWERED } state;
};

static size_t question_length(int type) {
	return type == SOCK_DGRAM ? sizeof question : 1;
}

static void one_after_another(int type, uint64_t deadline, struct times *times) {
	size_t length = question_length(type);
	while (now_ns() < deadline && times->errors < 20) {
		char answer[64];
		uint64_t start = now_ns();
		int fd = dial(type);
		if (fd >= 0 && write(fd, question, length) == (ssize_t)length && read(fd, answer, sizeof answer) == (ssize_t)length &&
		    (type == SOCK_DGRAM || read(fd, answer, 1) == 0))
			note(times, start);
		else
			times->errors++;
		if (fd >= 0)
			close(fd);
	}
}

static void begin(int poll, struct slot *slot, int type, struct times *times) {
	size_t length = question_length(type);
	slot->start = now_ns();
	slot->fd = dial(type | SOCK_NONBLOCK);
	slot->state = type == SOCK_DGRAM ? ASKED : CONNECTING;
	struct epoll_event event = { .events = slot->state == ASKED ? EPOLLIN : EPOLLOUT, .data.ptr = slot };
	if (slot->fd < 0) {
		times->errors++;
		return;
	}
	if ((slot->state == ASKED && write(slot->fd, question, length) != (ssize_t)length) ||
	    epoll_ctl(poll, EPOLL_CTL_ADD, slot->fd, &event)) {
		times->errors++;
		close(slot->fd);
		slot->fd = -1;
	}
}

static void finish(struct slot *slot, int well, struct times *times) {
	if (well)
		note(times, slot->start);
	else
		times->errors++;
	close(slot->fd);
	slot->fd = -1;
}

static void advance(int poll, struct slot *slot, int type, struct times *times) {
	char answer[64];
	if (slot->state == CONNECTING) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = slot };
		slot->state = ASKED;
		if (write(slot->fd, question, 1) != 1 || epoll_ctl(poll, EPOLL_CTL_MOD, slot->fd, &event))
			finish(slot, 0, times);
		return;
	}
	ssize_t length = read(slot->fd, answer, sizeof answer);
	if (slot->state == ASKED && length > 0) {
		slot->state = ANSWERED;
		if (type == SOCK_DGRAM) {
			finish(slot, length == sizeof question, times);
			return;
		}
		length = read(slot->fd, answer, 1);
	}
	if (length >= 0 || errno != EAGAIN)
		finish(slot, length == 0 && slot->state == ANSWERED, times);
}

static void many_at_a_time(int type, uint64_t deadline, size_t number, struct times *times) {
	// A lost datagram has no second chance; a lost SYN is sent again after one second.
	uint64_t patience = type == SOCK_DGRAM ? 500000000u : 3000000000u;
	struct slot *slots = calloc(number, sizeof *slots);
	int poll = epoll_create1(EPOLL_CLOEXEC);
	if (!slots || poll < 0)
		fail("many");
	for (size_t i = 0; i < number; i++)
		slots[i].fd = -1;
	while (now_ns() < deadline && times->errors < 1000) {
		struct epoll_event events[256];
		for (size_t i = 0; i < number; i++) {
			if (slots[i].fd >= 0 && now_ns() - slots[i].start > patience)
				finish(&slots[i], 0, times);
			if (slots[i].fd < 0)
				begin(poll, &slots[i], type, times);
		}
		int ready = epoll_wait(poll, events, 256, 100);
		for (int i = 0; i < ready; i++)
			advance(poll, events[i].data.ptr, type, times);
	}
	for (size_t i = 0; i < number; i++)
		if (slots[i].fd >= 0)
			close(slots[i].fd);
}

void new_flows(int type, double seconds, size_t number) {
	struct times times = { 0 };
	uint64_t begin = now_ns(), deadline = in_seconds(seconds);
	if (number == 1)
		one_after_another(type, deadline, &times);
	else
		many_at_a_time(type, deadline, number, &times);
	report(&times, begin);
}

void trips(int type, double seconds) {
	struct times times = { 0 };
	int fd = dial(type);
	if (fd < 0)
		fail("connect");
	// The first byte opens the flow, which is another measure.
	if (!trip(fd, KEEP))
		fail("first byte");
	uint64_t begin = now_ns(), deadline = in_seconds(seconds), start;
	while ((start = now_ns()) < deadline && times.errors < 5) {
		if (trip(fd, KEEP))
			note(&times, start);
		else
			times.errors++;
	}
	report(&times, begin);
}
