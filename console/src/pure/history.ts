/** The pages of a history that goes back in time, and what is newer than them. Pure. */

type Page<T> = { calls: T[]; next: number | null }

/**
 * `pages` with what the newest page of the hub has beyond them in front. If it does not reach down
 * to what is held there may be a gap, so the older pages are let go.
 */
export function withNews<T extends { id: number }>(pages: Page<T>[], newest: Page<T>): Page<T>[] {
  const [first, ...rest] = pages
  const last = first?.calls[0]
  if (first === undefined || last === undefined) return [newest]
  if (newest.next !== null && !newest.calls.some((call) => call.id <= last.id)) return [newest]
  const fresh = newest.calls.filter((call) => call.id > last.id)
  return fresh.length === 0 ? pages : [{ ...first, calls: [...fresh, ...first.calls] }, ...rest]
}
