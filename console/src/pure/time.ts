/** Times and amounts for people. Pure: `now` is handed in. */

/** Azure's "never": the first day of year 1. */
export function moment(text: string | undefined | null): number | undefined {
  if (!text || text.startsWith('0001-01-01')) return undefined
  const time = Date.parse(text)
  return Number.isNaN(time) ? undefined : time
}

/** `3 s`, `12 min`, `5 h`, `2 d`. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000))
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`
  return `${Math.floor(seconds / 86_400)} d`
}

/** `12 s ago`, or `just now`; a clock that is ahead is not the future. */
export function ago(time: number | undefined, now: number): string {
  if (time === undefined) return 'never'
  return now - time < 1500 ? 'just now' : `${span(now - time)} ago`
}

const two = (value: number): string => String(value).padStart(2, '0')

/** `14:02:11` of the reader's own clock; with the day if it is another one. */
export function clock(time: number, now: number): string {
  const at = new Date(time)
  const hours = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`
  return at.toDateString() === new Date(now).toDateString() ? hours : `${day(at)} ${hours}`
}

/** With milliseconds, for rows. */
export function fine(time: number): string {
  const at = new Date(time)
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}`
}

function day(at: Date): string {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
}

/** `1,234` up to a million, then `1.2 M`. */
export function count(value: number): string {
  if (value < 1_000_000) return value.toLocaleString('en')
  return value < 1e9 ? `${(value / 1e6).toFixed(1)} M` : `${(value / 1e9).toFixed(1)} G`
}

/** At most four digits that tell something. */
export function short(value: number): string {
  const size = Math.abs(value)
  if (size !== 0 && (size >= 1e7 || size < 1e-3)) return value.toExponential(2)
  if (size >= 1000 || Number.isInteger(value)) return Math.round(value).toLocaleString('en')
  return value.toFixed(size >= 100 ? 1 : 2)
}

/** `0.0`, `3.2`, `1,204` a second. */
export function rate(value: number): string {
  return value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString('en')
}

export const RANGES = { '1m': 60_000, '5m': 300_000, '15m': 900_000, '1h': 3_600_000 } as const
export type Range = keyof typeof RANGES
