/* Each function of idmap.h once for what it does, and for each way in which it fails. Prints what is wrong. */
#include <assert.h>
#include <errno.h>
#include <idmap.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int wrong;

#define CHECK(what)                                                          \
	do {                                                                 \
		if (!(what)) {                                               \
			printf("%s:%d: %s\n", __FILE__, __LINE__, #what);    \
			wrong = 1;                                           \
		}                                                            \
	} while (0)

static idmap *parse(const char *specs)
{
	idmap *map;
	char *error;

	CHECK(idmap_parse(specs, &map, &error) == 0);
	CHECK(map && !error);
	return map;
}

static void refused(const char *specs, int errno_, const char *part)
{
	idmap *map = (idmap *)1;
	char *error;

	CHECK(idmap_parse(specs, &map, &error) == errno_);
	CHECK(!map);
	CHECK(error && strstr(error, part));
	idmap_string_free(error);
	CHECK(idmap_parse(specs, &map, NULL) == errno_);
}

static int same(const idmap *map, enum idmap_kind kind, size_t count, const struct idmap_extent *wanted)
{
	struct idmap_extent found[8];

	return idmap_extents(map, kind, found, 8) == count && memcmp(found, wanted, count * sizeof(*wanted)) == 0;
}

static void *translate_often(void *map)
{
	for (uint32_t id = 0; id < 20000; id++) {
		uint32_t upper = 0, lower = 0;

		CHECK(idmap_up(map, IDMAP_UID, id, &upper) == 0 && upper == 100000 + id);
		CHECK(idmap_down(map, IDMAP_GID, upper, &lower) == 0 && lower == id);
	}
	return NULL;
}

int main(void)
{
	idmap *map = parse("b:0:100000:65536"), *other, *result;
	idmap_split *split;
	char *text, *error;
	uint32_t id = 7;

	/* Translation. */
	CHECK(idmap_up(map, IDMAP_UID, 1, &id) == 0 && id == 100001);
	CHECK(idmap_up(map, IDMAP_UID, 65536, &id) == EOVERFLOW && id == 0);
	CHECK(idmap_up(map, IDMAP_UID, UINT32_MAX, &id) == EOVERFLOW);
	CHECK(idmap_down(map, IDMAP_GID, 165535, &id) == 0 && id == 65535);
	CHECK(idmap_down(map, IDMAP_GID, 0, &id) == EOVERFLOW);
	CHECK(idmap_up(map, 2, 1, &id) == EINVAL);
	CHECK(idmap_up(NULL, IDMAP_UID, 1, &id) == EINVAL);
	CHECK(idmap_up(map, IDMAP_UID, 1, NULL) == EINVAL);
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		assert(!pthread_create(&threads[i], NULL, translate_often, map));
	for (int i = 0; i < 4; i++)
		assert(!pthread_join(threads[i], NULL));

	/* Reading and checking. */
	refused("b:0:100000", EINVAL, "b:0:100000:65536");
	refused("b:0:0:0", EINVAL, "count is 0");
	refused("b:0:0:10 b:5:100:10", EINVAL, "overlap");
	refused("b:4294967295:0:1", EINVAL, "4294967295");
	refused("", EINVAL, "empty");
	refused("file:/etc/passwd", ENOTSUP, "file:/etc/passwd");
	refused("userns:1 b:0:0:1", ENOTSUP, "userns:1");
	refused("u:0:0:1 g:\xff", EINVAL, "UTF-8");
	refused(NULL, EINVAL, "NULL");
	CHECK(idmap_parse("identity", NULL, &error) == EINVAL && error);
	idmap_string_free(error);
	CHECK(idmap_parse_proc("0 1000 1\n1 100000 65536\n", NULL, &other, &error) == 0);
	CHECK(same(other, IDMAP_UID, 2, (struct idmap_extent[]){ { 0, 1000, 1 }, { 1, 100000, 65536 } }));
	CHECK(idmap_extents(other, IDMAP_GID, NULL, 0) == 0);
	CHECK(idmap_extents(other, 9, NULL, 0) == 0);
	idmap_free(other);
	CHECK(idmap_parse_proc("0 1000", NULL, &other, &error) == EINVAL && error && !other);
	idmap_string_free(error);

	/* From extents; more than there is room for. */
	struct idmap_extent one[] = { { 0, 10, 5 }, { 5, 20, 5 } }, copied[1] = { { 9, 9, 9 } };
	CHECK(idmap_new(one, 2, NULL, 0, &other, &error) == 0);
	CHECK(idmap_extents(other, IDMAP_UID, copied, 1) == 2 && copied[0].upper == 10);
	idmap_free(other);
	CHECK(idmap_new(NULL, 1, NULL, 0, &other, NULL) == EINVAL && !other);

	/* Algebra. */
	CHECK(idmap_invert(map, &result) == 0);
	CHECK(same(result, IDMAP_GID, 1, &(struct idmap_extent){ 100000, 0, 65536 }));
	CHECK(idmap_compose(map, result, &other) == 0);
	CHECK(same(other, IDMAP_UID, 1, &(struct idmap_extent){ 0, 0, 65536 }));
	idmap_free(other);
	idmap_free(result);
	other = parse("b:0:100000:1");
	CHECK(idmap_subtract(map, other, &result) == 0);
	CHECK(same(result, IDMAP_UID, 1, &(struct idmap_extent){ 1, 100001, 65535 }));
	idmap_free(result);
	CHECK(idmap_intersect(map, other, &result) == 0);
	CHECK(same(result, IDMAP_UID, 1, &(struct idmap_extent){ 0, 100000, 1 }));
	idmap_free(result);
	idmap_free(other);
	CHECK(idmap_compose(map, NULL, &result) == EINVAL && !result);

	/* Splitting: what was asked beside what can be written. */
	idmap *wanted = parse("b:0:0:100"), *parent = parse("b:0:1000:1 b:1:100000:65536");
	CHECK(idmap_split_new(wanted, parent, &split, &error) == 0);
	CHECK(idmap_split_is_split(split) == 1);
	CHECK(idmap_split_text(split, IDMAP_UID, &text) == 0);
	CHECK(!strcmp(text, "asked    can be written\n0 0 100  0 0 1\n         1 1 99\n"));
	idmap_string_free(text);
	CHECK(idmap_split_text(split, 5, &text) == EINVAL && !text);
	CHECK(idmap_split_written(split, &result) == 0);
	CHECK(idmap_proc_text(result, IDMAP_GID, 4096, &text, &error) == 0);
	CHECK(!strcmp(text, "0 0 1\n1 1 99\n"));
	idmap_string_free(text);
	CHECK(idmap_proc_text(result, IDMAP_GID, 8, &text, &error) == EINVAL && !text && strstr(error, "bytes"));
	idmap_string_free(error);
	idmap_free(result);
	idmap_split_free(split);
	CHECK(idmap_split_new(parent, wanted, &split, &error) == EINVAL && !split && strstr(error, "1000"));
	idmap_string_free(error);
	CHECK(idmap_split_is_split(NULL) == 0);
	CHECK(idmap_split_written(NULL, &result) == EINVAL);
	idmap_free(wanted);
	idmap_free(parent);

	idmap_free(map);
	idmap_free(NULL);
	idmap_split_free(NULL);
	idmap_string_free(NULL);
	return wrong;
}
