/** Direct methods that were called from this page: in memory only, without payloads. */

/** Calls that are remembered for each device. */
const CALLS_MAX = 50

export type Call = { number: number; at: string; moduleId: string | null; method: string; by: string; status: number | null; error: string | null; durationMs: number }

const held = new Map<string, readonly Call[]>()
const watchers = new Set<() => void>()
const NONE: readonly Call[] = []
let count = 0

export function remember(device: string, call: Omit<Call, 'number'>): void {
  count += 1
  held.set(device, [{ ...call, number: count }, ...callsOf(device)].slice(0, CALLS_MAX))
  for (const watcher of watchers) watcher()
}

/** Newest first. */
export function callsOf(device: string): readonly Call[] {
  return held.get(device) ?? NONE
}

export function watchCalls(watcher: () => void): () => void {
  watchers.add(watcher)
  return () => watchers.delete(watcher)
}
