// Small and special traffic with exact clocks, for scripts/bench. Each client prints one JSON line.
//
//   traffic serve PORT ADDRESS…                      the server of all others: TCP and UDP PORT echo, datagrams on the next four
//   traffic new tcp|udp ADDRESS PORT SECONDS N       N at a time: new flow, 1 byte (UDP: 31) there and back, close
//   traffic trips tcp|udp ADDRESS PORT SECONDS       1 byte there and back on one flow
//   traffic rate up|down ADDRESS PORT SIZE           the highest rate of datagrams with less than 1 % lost
//   traffic super up|down ADDRESS PORT SECONDS       UDP_SEGMENT at the sender, UDP_GRO at the receiver: bits a second
//   traffic hold ADDRESS PORT COUNT                  opens COUNT connections, says so, keeps them until stdin ends
//   traffic crowd PROCESSES SOCKETS                  that many processes with that many TCP sockets on loopback, until stdin ends
//   traffic scan ADDRESS                             begins connections to all ports of a silent host, unpaced, until stdin ends
//
// Every loop is bounded by time, every socket by a timeout of three seconds. Times are in microseconds.
#include "traffic.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static int type_named(const char *name) {
	return strcmp(name, "udp") ? SOCK_STREAM : SOCK_DGRAM;
}

int main(int count, char **words) {
	const char *verb = count > 1 ? words[1] : "";
	struct rlimit limit;
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	// Paced senders sleep for 20 µs; the default slack of 50 µs would more than double that.
	prctl(PR_SET_TIMERSLACK, 1000);
	signal(SIGPIPE, SIG_IGN);
	int down = count > 2 && !strcmp(words[2], "down");
	if (!strcmp(verb, "serve") && count > 3) {
		serve(words[2], words + 3);
	} else if (!strcmp(verb, "new") && count == 7) {
		name_peer(words[3], words[4], ECHO_PORT);
		new_flows(type_named(words[2]), atof(words[5]), (size_t)atoi(words[6]));
	} else if (!strcmp(verb, "trips") && count == 6) {
		name_peer(words[3], words[4], ECHO_PORT);
		trips(type_named(words[2]), atof(words[5]));
	} else if (!strcmp(verb, "rate") && count == 6) {
		name_peer(words[3], words[4], down ? PUSH_PORT : SINK_PORT);
		find_rate(down, (uint32_t)atoi(words[5]));
	} else if (!strcmp(verb, "super") && count == 6) {
		name_peer(words[3], words[4], down ? SUPER_PUSH_PORT : SUPER_SINK_PORT);
		super_packets(down, atof(words[5]));
	} else if (!strcmp(verb, "hold") && count == 5) {
		name_peer(words[2], words[3], ECHO_PORT);
		hold(atol(words[4]));
	} else if (!strcmp(verb, "crowd") && count == 4) {
		crowd(atoi(words[2]), atoi(words[3]));
	} else if (!strcmp(verb, "scan") && count == 3) {
		name_peer(words[2], "0", ECHO_PORT);
		scan();
	} else {
		fputs("traffic: the head of main.c says how\n", stderr);
		return 2;
	}
	return 0;
}
