/** What changed between two JSON documents, and the merge patch that does it. Pure. */
import { equal, isObject, type Json, type JsonObject } from './json'

export type Change = {
  /** Keys from the root. */
  path: string[]
  kind: 'added' | 'removed' | 'changed'
  before?: Json
  after?: Json
}

/** Every changed leaf, in the order of the newer document, removals last. */
export function changes(before: Json | undefined, after: Json | undefined, path: string[] = []): Change[] {
  if (equal(before, after)) return []
  if (isObject(before) && isObject(after)) {
    const kept = Object.keys(after).flatMap((key) => changes(own(before, key), after[key], [...path, key]))
    const gone = Object.keys(before).filter((key) => !Object.hasOwn(after, key))
    return [...kept, ...gone.flatMap((key) => changes(before[key], undefined, [...path, key]))]
  }
  if (before === undefined) return [{ path, kind: 'added', after: after as Json }]
  if (after === undefined) return [{ path, kind: 'removed', before }]
  return [{ path, kind: 'changed', before, after }]
}

function own(object: JsonObject, key: string): Json | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined
}

/**
 * The merge patch from `before` to `after`; nulls delete. Undefined if nothing changed.
 * Where an object replaces something else it is sent whole. Twins hold no nulls, so `after`
 * must not either: see twin-rules.
 */
export function mergePatch(before: JsonObject, after: JsonObject): JsonObject | undefined {
  const patch: JsonObject = {}
  for (const [key, value] of Object.entries(after)) {
    const old = own(before, key)
    if (isObject(old) && isObject(value)) {
      const inner = mergePatch(old, value)
      if (inner !== undefined) define(patch, key, inner)
    } else if (!equal(old, value)) define(patch, key, value)
  }
  for (const key of Object.keys(before)) if (!Object.hasOwn(after, key)) define(patch, key, null)
  return Object.keys(patch).length === 0 ? undefined : patch
}

/** What a merge patch makes of a document; the hub's own rule. */
export function applyPatch(base: JsonObject, patch: JsonObject): JsonObject {
  const result: JsonObject = { ...base }
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key]
    else if (isObject(value)) {
      const old = own(base, key)
      define(result, key, applyPatch(isObject(old) ? old : {}, value))
    } else define(result, key, value)
  }
  return result
}

/** Paths that two sets of changes both touch, one within the other or the same, and not alike. */
export function clashes(theirs: readonly Change[], mine: readonly Change[]): string[][] {
  const within = (inner: string[], outer: string[]): boolean => outer.every((key, index) => inner[index] === key)
  const clash = (one: Change, other: Change): boolean => (within(one.path, other.path) || within(other.path, one.path)) && !(one.path.length === other.path.length && equal(one.after, other.after))
  return theirs.filter((one) => mine.some((other) => clash(one, other))).map((one) => one.path)
}

/** `__proto__` is a key like any other. */
function define(object: JsonObject, key: string, value: Json): void {
  Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true })
}

/** `metrics.0` for people. */
export function pathText(path: string[]): string {
  return path.length === 0 ? '(everything)' : path.join('.')
}
