// Bitlm.cs - libbitlm from C# by P/Invoke: quantizes a vector, embeds two texts, generates a text.
//
//     mcs Bitlm.cs && LD_LIBRARY_PATH=build mono Bitlm.exe      (dotnet works the same)
//
// Structs begin with their size, text is pointer + length: docs/BRIDGES.md says what to watch for.
using System;
using System.Runtime.InteropServices;
using System.Text;

static class Bitlm
{
    const string Lib = "bitlm"; // libbitlm.so

    [StructLayout(LayoutKind.Sequential)]
    struct Error
    {
        public uint size;
        public int status, sysErrno;
        [MarshalAs(UnmanagedType.ByValArray, SizeConst = 500)] public byte[] text;
    }

    [StructLayout(LayoutKind.Sequential)]
    struct Text { public IntPtr data; public UIntPtr length; }

    [StructLayout(LayoutKind.Sequential)]
    struct Piece
    {
        public uint size;
        public int row, n, token, finish;
        public float logprob;
        public IntPtr text;
        public UIntPtr textLength;
    }

    [DllImport(Lib)] static extern IntPtr bitlm_version();
    [DllImport(Lib)] static extern int bitlm_model_open(byte[] name, UIntPtr length, uint flags, IntPtr options, IntPtr host, out IntPtr model, ref Error error);
    [DllImport(Lib)] static extern void bitlm_model_free(IntPtr model);
    [DllImport(Lib)] static extern int bitlm_session_open(IntPtr model, IntPtr options, IntPtr host, out IntPtr session, ref Error error);
    [DllImport(Lib)] static extern void bitlm_session_free(IntPtr session);
    [DllImport(Lib)] static extern void bitlm_options_init(IntPtr options);
    [DllImport(Lib)] static extern int bitlm_options_json(IntPtr options, byte[] json, UIntPtr length, ref Error error);
    [DllImport(Lib)] static extern void bitlm_options_clear(IntPtr options);
    [DllImport(Lib)] static extern int bitlm_embed_batch(IntPtr session, Text[] texts, UIntPtr n, int format, IntPtr options, byte[] output, UIntPtr stride, IntPtr rowStatus, ref Error error);
    [DllImport(Lib)] static extern int bitlm_generate_start(IntPtr session, Text[] prompts, UIntPtr n, uint flags, IntPtr options, ref Error error);
    [DllImport(Lib)] static extern int bitlm_generate_next(IntPtr session, ref Piece piece, ref Error error);
    [DllImport(Lib)] static extern ulong bitlm_hamming(byte[] a, byte[] b, UIntPtr n);
    [DllImport(Lib)] static extern int bitlm_scheme_bytes(byte[] scheme, UIntPtr length, UIntPtr rows, UIntPtr k, out UIntPtr bytes, ref Error error);
    [DllImport(Lib)] static extern int bitlm_quantize(byte[] scheme, UIntPtr length, float[] values, UIntPtr rows, UIntPtr k, float scale, byte[] output, UIntPtr bytes, ref Error error);

    static Error NewError()
    {
        return new Error { size = (uint)Marshal.SizeOf(typeof(Error)), text = new byte[500] };
    }

    static void Check(int status, Error error)
    {
        if (status == 0) return;
        int end = Array.IndexOf(error.text, (byte)0);
        throw new Exception("bitlm: " + Encoding.UTF8.GetString(error.text, 0, end < 0 ? 500 : end));
    }

    static UIntPtr Size(long n) { return (UIntPtr)(ulong)n; }

    static Text ToText(string s)
    {
        byte[] utf8 = Encoding.UTF8.GetBytes(s);
        IntPtr memory = Marshal.AllocHGlobal(utf8.Length + 1);
        Marshal.Copy(utf8, 0, memory, utf8.Length);
        return new Text { data = memory, length = Size(utf8.Length) };
    }

    static string Hex(byte[] bytes) { return BitConverter.ToString(bytes).Replace("-", "").ToLowerInvariant(); }

    static IntPtr Open(string name, IntPtr options, out IntPtr session)
    {
        Error error = NewError();
        IntPtr model;
        byte[] utf8 = Encoding.UTF8.GetBytes(name);
        Check(bitlm_model_open(utf8, Size(utf8.Length), 0, IntPtr.Zero, IntPtr.Zero, out model, ref error), error);
        Check(bitlm_session_open(model, options, IntPtr.Zero, out session, ref error), error);
        return model;
    }

    static void Main()
    {
        Error error = NewError();
        byte[] scheme = Encoding.ASCII.GetBytes("TQ2_0");
        var values = new float[256];
        for (int i = 0; i < values.Length; i++) values[i] = i % 3 - 1;
        UIntPtr size;
        Check(bitlm_scheme_bytes(scheme, Size(scheme.Length), Size(1), Size(256), out size, ref error), error);
        var blocks = new byte[(int)size];
        Check(bitlm_quantize(scheme, Size(scheme.Length), values, Size(1), Size(256), 0, blocks, size, ref error), error);
        Console.WriteLine("quantized " + Hex(blocks));

        IntPtr session, model = Open("embed", IntPtr.Zero, out session);
        string[] texts = { "a tax letter", "a love letter" };
        var codes = new byte[texts.Length * 48];
        var rows = Array.ConvertAll(texts, ToText);
        Check(bitlm_embed_batch(session, rows, Size(rows.Length), 0, IntPtr.Zero, codes, Size(48), IntPtr.Zero, ref error), error);
        foreach (var row in rows) Marshal.FreeHGlobal(row.data);
        Console.WriteLine("codes " + Hex(codes));
        bitlm_session_free(session);
        bitlm_model_free(model);

        IntPtr options = Marshal.AllocHGlobal(1024); // more than any version's struct; init writes its size
        bitlm_options_init(options);
        byte[] json = Encoding.UTF8.GetBytes("{\"max_tokens\":12,\"temperature\":0}");
        Check(bitlm_options_json(options, json, Size(json.Length), ref error), error);
        model = Open("story", options, out session);
        var prompt = new[] { ToText("Once upon a time") };
        Check(bitlm_generate_start(session, prompt, Size(1), 0, options, ref error), error);
        var piece = new Piece { size = (uint)Marshal.SizeOf(typeof(Piece)) };
        var text = new StringBuilder();
        int status;
        while ((status = bitlm_generate_next(session, ref piece, ref error)) == 0)
        {
            var bytes = new byte[(int)piece.textLength];
            if (bytes.Length > 0) Marshal.Copy(piece.text, bytes, 0, bytes.Length);
            text.Append(Encoding.UTF8.GetString(bytes));
        }
        if (status != 100) Check(status, error);
        Console.WriteLine("text" + text);
        Marshal.FreeHGlobal(prompt[0].data);
        bitlm_options_clear(options);
        Marshal.FreeHGlobal(options);
        bitlm_session_free(session);
        bitlm_model_free(model);
    }
}
