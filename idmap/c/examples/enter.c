/*
 * Starts a command in a user namespace whose map is cut to fit this one.
 *
 *     enter SPECS COMMAND [ARGUMENT...]
 *     enter "b:0:1000:1 b:1:100000:65536" id
 *
 * In SPECS lower is the id inside and upper the id here. Needs CAP_SETUID and CAP_SETGID here, unless the map
 * is of the caller's own ids.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <idmap.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what, int error, char *message)
{
	fprintf(stderr, "%s: %s\n", what, message ? message : strerror(error));
	idmap_string_free(message);
	exit(1);
}

static char *contents(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	if (!file || getdelim(&text, &size, '\0', file) < 0)
		fail(path, errno, NULL);
	fclose(file);
	return text;
}

static void write_map(pid_t pid, const char *file, const idmap *map, enum idmap_kind kind)
{
	char path[64], *text, *message;
	int error = idmap_proc_text(map, kind, (size_t)sysconf(_SC_PAGESIZE), &text, &message);

	if (error)
		fail(file, error, message);
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	/* The kernel takes a map in one write, and once. */
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail(path, errno, NULL);
	close(fd);
	idmap_string_free(text);
}

int main(int argc, char **argv)
{
	idmap *wanted, *parent, *written;
	idmap_split *split;
	char *message, byte = 0;
	int error, status, unshared[2], mapped[2];

	if (argc < 3) {
		fprintf(stderr, "usage: %s SPECS COMMAND [ARGUMENT...]\n", argv[0]);
		return 2;
	}
	if ((error = idmap_parse(argv[1], &wanted, &message)))
		fail(argv[1], error, message);
	char *uids = contents("/proc/self/uid_map"), *gids = contents("/proc/self/gid_map");
	if ((error = idmap_parse_proc(uids, gids, &parent, &message)))
		fail("/proc/self", error, message);
	free(uids);
	free(gids);
	if ((error = idmap_split_new(wanted, parent, &split, &message)))
		fail(argv[1], error, message);
	if (idmap_split_is_split(split)) {
		char *text;

		if (!idmap_split_text(split, IDMAP_UID, &text))
			fputs(text, stderr);
		idmap_string_free(text);
	}
	if ((error = idmap_split_written(split, &written)))
		fail("split", error, NULL);

	if (pipe2(unshared, O_CLOEXEC) || pipe2(mapped, O_CLOEXEC))
		fail("pipe2", errno, NULL);
	pid_t pid = fork();
	if (pid < 0)
		fail("fork", errno, NULL);
	if (pid == 0) {
		/* Only after its map has been written is this process anybody in there. */
		close(mapped[1]);
		if (unshare(CLONE_NEWUSER))
			fail("unshare", errno, NULL);
		if (write(unshared[1], &byte, 1) != 1 || read(mapped[0], &byte, 1) != 1)
			_exit(1);
		if (setresgid(0, 0, 0) || setresuid(0, 0, 0))
			fail("become root inside", errno, NULL);
		execvp(argv[2], argv + 2);
		fail(argv[2], errno, NULL);
	}
	close(unshared[1]);
	if (read(unshared[0], &byte, 1) == 1) {
		write_map(pid, "gid_map", written, IDMAP_GID);
		write_map(pid, "uid_map", written, IDMAP_UID);
		if (write(mapped[1], &byte, 1) != 1)
			fail("write", errno, NULL);
	}
	idmap_split_free(split);
	idmap_free(written);
	idmap_free(parent);
	idmap_free(wanted);
	if (waitpid(pid, &status, 0) < 0)
		fail("waitpid", errno, NULL);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
