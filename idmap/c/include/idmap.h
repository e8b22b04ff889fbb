/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * User and group id maps. See idmap(3).
 *
 * A map has a *lower* and an *upper* side, for users and for groups each. For a user namespace, lower
 * is the id inside and upper the id that the parent namespace has for it: the order of the columns
 * of /proc/PID/uid_map. For an idshift mount, lower is the id on disk and upper the id that is shown.
 *
 * A map never changes after it has been made. All functions are thread-safe; there is no global state.
 *
 * Functions that can fail return 0 or an errno. Where they take `char **error`, it may be NULL;
 * otherwise it is set to NULL, or on failure to a message for people. Every string that comes back is freed with
 * idmap_string_free(), every map with idmap_free(), every split with idmap_split_free(); each of these takes NULL.
 * No pointer argument may be NULL unless its description says so: the answer is then EINVAL. On failure, outputs are NULL or 0.
 */
#ifndef IDMAP_H
#define IDMAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the kernel takes at most in one map (user_namespaces(7)). */
#define IDMAP_KERNEL_EXTENTS 340

enum idmap_kind { IDMAP_UID = 0, IDMAP_GID = 1 };

/* COUNT neighbouring ids: lower, lower+1, … are upper, upper+1, … */
struct idmap_extent {
	uint32_t lower;
	uint32_t upper;
	uint32_t count;
};

/* A map of users and a map of groups. */
typedef struct idmap idmap;

/* A map that was cut to fit a parent namespace. */
typedef struct idmap_split idmap_split;

/* Reads specs, separated by blanks: b:LOWER:UPPER:COUNT, u:…, g:…, offset:N[:COUNT], identity. One
 * kind of id may be left out; its map is then empty. EINVAL: a spec cannot be read, or two extents
 * overlap. ENOTSUP: a spec that names a file, a namespace or a user (file:, userns:, subuid:, name:), which
 * this library does not look up. */
int idmap_parse(const char *specs, idmap **map, char **error);

/* Reads the contents of /proc/PID/uid_map and /proc/PID/gid_map. Either may be NULL for an empty map.
 * EINVAL: not such a text. */
int idmap_parse_proc(const char *uid_map, const char *gid_map, idmap **map, char **error);

/* Makes a map of extents. An array of no extents may be NULL. EINVAL: an extent is empty or runs past
 * id 4294967294, or two overlap on either side. */
int idmap_new(const struct idmap_extent *uids, size_t uid_count,
	      const struct idmap_extent *gids, size_t gid_count, idmap **map, char **error);

void idmap_free(idmap *map);

/* Translates an id, lower to upper and back. EOVERFLOW: the map does not cover it. EINVAL: an
 * unknown kind. */
int idmap_up(const idmap *map, enum idmap_kind kind, uint32_t lower, uint32_t *upper);
int idmap_down(const idmap *map, enum idmap_kind kind, uint32_t upper, uint32_t *lower);

/* Copies up to `capacity` extents, in the order in which they were given, and returns how many there are.
 * `extents` may be NULL if `capacity` is 0. Returns 0 for an unknown kind. */
size_t idmap_extents(const idmap *map, enum idmap_kind kind, struct idmap_extent *extents, size_t capacity);

/* The map that undoes this one: its lower ids are this one's upper ids. */
int idmap_invert(const idmap *map, idmap **result);

/* Through `first`, and then its upper ids as the lower ids of `second`. An id that either does not
 * cover is not in the result. */
int idmap_compose(const idmap *first, const idmap *second, idmap **result);

/* The pairs (lower, upper) that both hold; those of `one` that `other` does not hold. */
int idmap_intersect(const idmap *one, const idmap *other, idmap **result);
int idmap_subtract(const idmap *one, const idmap *other, idmap **result);

/* Cuts the extents of `wanted` at the borders of the parent namespace's extents: the kernel takes a line only
 * if all the ids that it names in the parent lie in one extent there. The upper ids of `wanted` are lower ids of
 * `parent`. EINVAL: the parent lacks an id, which the message names; none is ever left out. */
int idmap_split_new(const idmap *wanted, const idmap *parent, idmap_split **split, char **error);

/* 1 if anything had to be cut, else 0. */
int idmap_split_is_split(const idmap_split *split);

/* What can be written. */
int idmap_split_written(const idmap_split *split, idmap **map);

/* What was asked beside what can be written, as text for people. */
int idmap_split_text(const idmap_split *split, enum idmap_kind kind, char **text);

void idmap_split_free(idmap_split *split);

/* The lines for /proc/PID/uid_map, gid_map or newuidmap(1). EINVAL: the map is empty, or longer than the kernel
 * takes (340 lines, less than a page of `page_size` bytes). */
int idmap_proc_text(const idmap *map, enum idmap_kind kind, size_t page_size, char **text, char **error);

void idmap_string_free(char *string);

#ifdef __cplusplus
}
#endif

#endif
