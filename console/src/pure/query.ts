/** The query of an address. A blank is %20: only forms write it as a plus, and the hub reads none. Pure. */
export function query(pairs: Iterable<readonly [string, string | number | undefined]>): string {
  const parts: string[] = []
  for (const [name, value] of pairs) if (value !== undefined) parts.push(`${encodeURIComponent(name)}=${encodeURIComponent(value)}`)
  return parts.join('&')
}
